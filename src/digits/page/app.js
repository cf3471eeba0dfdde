// Three sources of pictures, one answer. Asks only its own server: GET model, POST predict.

const PEN = 0.07;        // width of a stroke, in heights of the sheet
const SENT = 280;        // pixels: height of the drawings and frames that are sent
const PAUSE = 40;        // milliseconds from one request to the next, at least
const FRAME_PAUSE = 120; // the same for the camera
const TIMEOUT = 30_000;  // milliseconds for an answer
const CAMERA = {
  NotAllowedError: "The browser may not use the camera. Allow it in the address bar, then start it again.",
  insecure: "Browsers allow the camera only on pages from this machine (127.0.0.1) or over https.",
};

const $ = (id) => document.getElementById(id);
const make = (tag, textContent = "") => Object.assign(document.createElement(tag), { textContent });
const percent = (p) => `${(100 * p).toFixed(1)} %`;
const pause = (milliseconds) => new Promise((done) => setTimeout(done, milliseconds));
const several = () => $("several").checked;
const [sheet, preview, video, guide] = ["sheet", "preview", "video", "guide"].map($);

let model;            // the answer to GET model
let noun = "digit";   // what its classes are
let source = "draw";  // or upload, camera
let strokes = [];     // each a list of points [x, y], in heights of the sheet
let file = null;      // what was uploaded
let stream = null;    // the camera's
let readings = [];    // the answer's predictions
let chosen = null;    // which of several has its bars shown; null: the least certain

// Reading: one request at a time. A change is read next; an answer to a discarded picture is dropped.

let busy = false;
let changed = false;
let era = 0;

async function read() {
  changed = true;
  if (busy) return;
  busy = true;
  while (changed) {
    changed = false;
    const asked = era;
    const start = performance.now();
    const picture = await pictures[source]();
    if (picture) {
      const answer = await predict(picture.blob);
      if (!answer) await untilBack();
      else if (asked === era) show(answer, picture);
      changed ||= !answer;
    }
    changed ||= stream !== null;
    if (changed) await pause(start + (stream ? FRAME_PAUSE : PAUSE) - performance.now());
  }
  busy = false;
}

/** The server's answer; undefined without a server. */
async function predict(body) {
  const url = `predict?mode=${several() ? "line" : "digit"}`;
  let response;
  try {
    response = await fetch(url, { method: "POST", body, signal: AbortSignal.timeout(TIMEOUT) });
  } catch {
    return undefined;
  }
  const json = await response.json().catch(() => ({ message: `The server failed (${response.status}).` }));
  return response.ok ? { readings: [json].flat() } : json;
}

async function untilBack() {
  $("gone").hidden = false;
  while (!(await getModel())) await pause(1000);
  $("gone").hidden = true;
}

/** Clears the answer and any pending one. */
function reset() {
  era += 1;
  chosen = null;
  show({});
  read();
}

// Pictures: what each source has to read, as { blob, width, height }, or null

const scratch = document.createElement("canvas");

function sent(width, paintOn, type) {
  Object.assign(scratch, { width, height: SENT });
  paintOn(scratch.getContext("2d", { willReadFrequently: true }));
  return new Promise((done) => scratch.toBlob((blob) => done({ blob, width, height: SENT }), type, 0.92));
}

const pictures = {
  draw() {
    if (!strokes.length) return null;
    const width = Math.round((SENT * sheet.clientWidth) / sheet.clientHeight);
    return sent(width, (context) => {
      context.fillStyle = "#fff";
      context.fillRect(0, 0, width, SENT);
      paint(context, SENT, "#000");
    }, "image/png");
  },

  upload: () => file && { blob: file, width: preview.naturalWidth, height: preview.naturalHeight },

  camera() {
    if (!stream || !video.videoWidth) return null;
    // The video covers the stage and is cropped to it; the guide is in the middle.
    const scale = Math.max(video.clientWidth / video.videoWidth, video.clientHeight / video.videoHeight);
    const [width, height] = [guide.clientWidth / scale, guide.clientHeight / scale];
    const [left, top] = [(video.videoWidth - width) / 2, (video.videoHeight - height) / 2];
    const wide = Math.round((SENT * width) / height);
    return sent(wide, (context) => context.drawImage(video, left, top, width, height, 0, 0, wide, SENT), "image/jpeg");
  },
};

// The answer

function show({ readings: found = [], message = "" }, picture = null) {
  if (found.length !== readings.length) chosen = null;
  readings = found;
  $("message").textContent = message;
  $("message").hidden = !message;
  $("readings").hidden = Boolean(message);
  $("answer").classList.toggle("many", several());
  const [size, time] = [model?.image_size, readings[0]?.milliseconds.toFixed(1)];
  $("took").textContent = time ? `What the network saw: ${size}×${size} pixels, read in ${time} ms` : "\xa0";
  showReadings();
  showBoxes(picture);
  speak(message || readings.map((one) => `${one.label}, ${percent(one.probability)}`).join("; "));
}

function showReadings() {
  const all = $("readings");
  while (all.children.length > readings.length) all.lastChild.remove();
  while (all.children.length < readings.length) {
    const index = all.children.length;
    const button = make("button");
    button.append(make("img"), make("strong"), make("span"));
    button.onclick = () => { chosen = index; showReadings(); };
    all.append(button);
  }
  const certainty = readings.map(({ probability }) => probability);
  const selected = chosen ?? certainty.indexOf(Math.min(...certainty));
  readings.forEach(({ image, label, probability }, index) => {
    const button = all.children[index];
    const [seen, name, share] = button.children;
    Object.assign(seen, { src: image, alt: "" });
    name.textContent = label;
    share.textContent = percent(probability);
    button.className = label.length < 3 ? "reading short" : "reading";
    button.disabled = !several();
    button.ariaPressed = several() ? String(index === selected) : null;
  });
  showBars(readings[selected]?.probabilities);
}

function showBars(probabilities) {
  const best = probabilities?.indexOf(Math.max(...probabilities));
  [...$("bars").children].forEach((row, index) => {
    const p = probabilities?.[index];
    row.className = index === best ? "best" : "";
    row.style.setProperty("--p", p ?? 0);
    row.lastChild.textContent = probabilities ? percent(p) : "";
  });
}

/** Draws a box around each digit. The picture is centred on the stage. */
function showBoxes(picture) {
  const boxes = $("boxes");
  boxes.replaceChildren();
  if (!picture?.width) return;
  boxes.style.setProperty("--ratio", picture.width / picture.height);
  const [x, y] = [picture.width, picture.height].map((size) => (pixels) => `${(100 * pixels) / size}%`);
  for (const { box: [left, top, right, bottom], label } of readings) {
    const frame = make("i");
    Object.assign(frame.style, { left: x(left), top: y(top), width: x(right - left), height: y(bottom - top) });
    if (several()) frame.append(make("b", label));
    boxes.append(frame);
  }
}

let spoken;

/** For screen readers, once the answer is stable. */
function speak(text) {
  clearTimeout(spoken);
  spoken = setTimeout(() => { $("spoken").textContent = text; }, 600);
}

// Drawing

let drawing = false;
let painted = 0;

function paint(context, height, ink) {
  Object.assign(context, { strokeStyle: ink, lineWidth: PEN * height, lineCap: "round", lineJoin: "round" });
  for (const stroke of strokes) {
    const points = stroke.map(([x, y]) => [x * height, y * height]);
    context.beginPath();
    context.moveTo(...points[0]);
    for (let i = 1; i < points.length - 1; i++) { // curves through midpoints are smooth
      const [[x, y], [u, v]] = [points[i], points[i + 1]];
      context.quadraticCurveTo(x, y, (x + u) / 2, (y + v) / 2);
    }
    const [x, y] = points.at(-1);
    context.lineTo(x + 0.01, y); // a tap is a dot
    context.stroke();
  }
}

function repaint() {
  cancelAnimationFrame(painted);
  painted = requestAnimationFrame(() => {
    const [width, height] = [sheet.clientWidth, sheet.clientHeight].map((size) => Math.round(size * devicePixelRatio));
    Object.assign(sheet, { width, height });
    paint(sheet.getContext("2d"), height, getComputedStyle(sheet).color);
  });
  $("draw").classList.toggle("drawn", strokes.length > 0);
}

function extend(event) {
  const { left, top, height } = sheet.getBoundingClientRect();
  strokes.at(-1).push([(event.clientX - left) / height, (event.clientY - top) / height]);
}

function draw(event) {
  if (event.type === "pointerdown" && event.button === 0 && event.isPrimary) {
    sheet.setPointerCapture(event.pointerId);
    strokes.push([]);
    drawing = true;
  }
  if (!drawing || !event.isPrimary) return;
  const events = event.getCoalescedEvents?.() ?? [];
  (events.length ? events : [event]).forEach(extend);
  repaint();
  read();
}

sheet.addEventListener("pointerdown", draw);
sheet.addEventListener("pointermove", draw);
sheet.addEventListener("lostpointercapture", () => { drawing = false; });
new ResizeObserver(repaint).observe(sheet);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", repaint);

/** Replaces the strokes by some of them. */
function keep(some) {
  drawing = false;
  strokes = some;
  repaint();
  strokes.length ? read() : reset();
}

// Uploads

async function open(picture) {
  select("upload");
  URL.revokeObjectURL(preview.src);
  file = null;
  preview.hidden = true;
  $("file").value = ""; // so that the same one can be chosen again
  reset();
  if (!picture) return;
  const [name, most] = [picture.name, model.most_bytes];
  if (picture.size > most) return show({ message: `${name} has more than ${most / 2 ** 20} MB.` });
  try {
    file = new Blob([await picture.arrayBuffer()]); // a copy: the file on the disk may change
  } catch {
    return show({ message: `${name} cannot be read.` });
  }
  preview.src = URL.createObjectURL(file);
  preview.hidden = false;
  await preview.decode().catch(() => { preview.hidden = true; }); // TIFF: the server reads formats that browsers do not
  read();
}

$("file").onchange = () => open($("file").files[0]);
$("choose").onclick = () => $("file").click();

function drag(event) {
  if (!event.dataTransfer.types.includes("Files")) return;
  event.preventDefault();
  $("stage").classList.toggle("over", event.type === "dragover");
  if (event.type === "drop") open(event.dataTransfer.files[0]);
}

for (const type of ["dragover", "dragleave", "drop"]) addEventListener(type, drag);
addEventListener("paste", ({ clipboardData }) => clipboardData.files.length && open(clipboardData.files[0]));

// The camera

async function start() {
  try {
    if (!navigator.mediaDevices) throw { name: "insecure" };
    stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment", width: { ideal: 1280 } } });
  } catch (error) {
    return show({ message: CAMERA[error.name] ?? `The camera does not start (${error.message}).` });
  }
  if (source !== "camera") return stop(); // left during the browser's question
  stream.getTracks()[0].onended = stop;
  video.srcObject = stream;
  $("camera").classList.add("on");
  $("start").textContent = "Stop the camera";
  read();
}

function stop() {
  stream?.getTracks().forEach((track) => track.stop());
  stream = video.srcObject = null;
  $("camera").classList.remove("on");
  $("start").textContent = "Start the camera";
  reset();
}

$("start").onclick = () => (stream ? stop() : start());

// Tabs, switch and keys

const tabs = [...document.querySelectorAll("[role=tab]")];

function select(name) {
  if (name === source) return;
  if (stream) stop();
  source = name;
  for (const tab of tabs) {
    const on = tab.id === `${name}-tab`;
    tab.ariaSelected = String(on);
    tab.tabIndex = on ? 0 : -1;
    $(tab.getAttribute("aria-controls")).hidden = !on;
  }
  for (const button of document.querySelectorAll("[data-for]")) button.hidden = !button.dataset.for.includes(name);
  reset();
}

tabs.forEach((tab, index) => {
  tab.onclick = () => select(tab.getAttribute("aria-controls"));
  tab.onkeydown = ({ key }) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[key];
    if (!step) return;
    const next = tabs.at((index + step) % tabs.length);
    next.focus();
    next.click();
  };
});

const undo = () => keep(strokes.slice(0, -1));
const clear = () => ({ draw: () => keep([]), upload: open, camera: stop })[source]();
$("undo").onclick = undo;
$("clear").onclick = clear;

addEventListener("keydown", (event) => {
  const [key, control] = [event.key, event.ctrlKey || event.metaKey];
  if (key === "z" && source === "draw") undo();
  else if ((key === "c" && !control) || key === "Escape") clear();
  else return;
  event.preventDefault();
});

$("several").onchange = () => {
  document.body.classList.toggle("wide", several());
  setHints();
  reset();
  keep(strokes.filter((stroke) => several() || stroke.every(([x]) => x <= 1))); // those that fit on the square sheet
};

// The model

function setHints() {
  const what = several() ? `several ${noun}s` : `a ${noun}`;
  $("draw-hint").textContent = `Draw ${what}`;
  $("camera-hint").textContent = `Start the camera, and hold ${what} into the frame`;
  $("several").nextSibling.textContent = `several ${noun}s`;
}

/** Gets what describes the model; false without a server. */
async function getModel() {
  try {
    model = await (await fetch("model", { signal: AbortSignal.timeout(5000) })).json();
  } catch {
    return false;
  }
  const names = model.class_names;
  const longest = Math.max(...names.map((name) => name.length));
  noun = model.digits ? "digit" : longest === 1 ? "character" : "picture";
  $("model").textContent = `${model.file} · ${model.dataset}, ${names.length} classes`;
  $("several").parentElement.hidden = noun === "picture";
  $("bars").style.setProperty("--name", `${Math.min(0.62 * longest + 0.6, 9)}em`);
  $("bars").classList.toggle("dense", names.length > 16);
  $("bars").replaceChildren(...names.map((name) => {
    const row = make("li");
    row.append(Object.assign(make("span", name), { title: name }), make("i"), make("span"));
    return row;
  }));
  setHints();
  showReadings();
  return true;
}

if (!(await getModel())) await untilBack();
