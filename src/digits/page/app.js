// Three sources of pictures, one answer. Asks only its own server: GET model, POST predict, POST explain.

const SENT = 320;        // pixels: height of the drawings that are sent
const FRAME = 1000;      // pixels: longer side of the camera's frames that are sent
const PAUSE = 40;        // milliseconds from one request to the next, at least
const FRAME_PAUSE = 120; // the same for the camera
const TIMEOUT = 30_000;  // milliseconds for an answer
const CAMERA = {
  NotAllowedError: "The browser may not use the camera. Allow it in the address bar, then start it again.",
  insecure: "Browsers allow the camera only on pages from this machine (127.0.0.1) or over https.",
};
// The line's width follows what is drawn: with one width for all, a small digit would be a blob to the network, which
// sees each digit at the same size. The slider gives the width for FULL and above; below, the line thins in proportion.
const FULL = 0.5;        // size of a digit, in heights of the sheet
const THINNEST = 0.2;    // times the slider's width
const NEAR = 0.03;       // heights of the sheet between strokes of one digit
const DOT = 0.03;        // a smaller mark is a decimal point, as broad as the line of the digit beside it

const $ = (id) => document.getElementById(id);
const make = (tag, textContent = "") => Object.assign(document.createElement(tag), { textContent });
const put = (id, text) => Object.assign($(id), { textContent: text, hidden: !text });
const percent = (p) => (p >= 0.9995 ? ">99.9 %" : `${(100 * p).toFixed(1)} %`);
const pause = (milliseconds) => new Promise((done) => setTimeout(done, milliseconds));
const [sheet, preview, video] = ["sheet", "preview", "video"].map($);

let model;            // the answer to GET model
let nothing = "";     // what something is that is none of its classes
let source = "draw";  // or upload, camera
let strokes = [];     // each a list of points [x, y] from the sheet's middle, in heights of the sheet
let file = null;      // what was uploaded
let stream = null;    // the camera's
let answer = { marks: [] }; // the last to POST predict
let chosen = null;    // which of several has its bars shown; null: the least certain

// Reading: one request at a time. A change is read next; an answer to a discarded picture is dropped.

let busy = false;
let changed = false;
let era = 0;

async function read() {
  changed = true;
  if (busy) return;
  busy = true;
  $("readings").ariaBusy = !stream; // with the camera there is always a next one
  while (changed) {
    changed = false;
    const asked = era;
    const start = performance.now();
    const picture = await pictures[source]();
    if (picture) {
      const given = await predict(picture);
      if (!given) await untilBack();
      else if (asked === era) show(given);
      changed ||= !given;
    }
    changed ||= stream !== null;
    if (changed) await pause(start + (stream ? FRAME_PAUSE : PAUSE) - performance.now());
  }
  busy = false;
  $("readings").ariaBusy = false;
}

/** The server's answer; undefined without a server. */
async function predict(body) {
  // TIFF, HEIC: the server reads formats that browsers do not.
  const url = body === file && preview.hidden ? "predict?preview=true" : "predict";
  try {
    const response = await fetch(url, { method: "POST", body, signal: AbortSignal.timeout(TIMEOUT) });
    return await response.json().catch(() => ({ message: `The server failed (${response.status}).` }));
  } catch {
    return undefined;
  }
}

async function untilBack() {
  $("gone").hidden = false;
  while (!(await getModel())) await pause(1000);
  $("gone").hidden = true;
}

/** Clears the answer and any pending one. */
function reset() {
  era += 1;
  show({});
  read();
}

// Pictures: what each source has to read, or null

const scratch = document.createElement("canvas");

function sent(width, height, paintOn, type) {
  Object.assign(scratch, { width, height });
  paintOn(scratch.getContext("2d", { willReadFrequently: true }));
  return new Promise((done) => scratch.toBlob(done, type, 0.92));
}

const pictures = {
  draw() {
    if (!strokes.length) return null;
    const width = Math.round(SENT * shape());
    return sent(width, SENT, (context) => {
      context.fillStyle = "#fff";
      context.fillRect(0, 0, width, SENT);
      paint(context, "#000");
    }, "image/png");
  },

  upload: () => file,

  camera() {
    if (!stream || !video.videoWidth) return null;
    const size = [video.videoWidth, video.videoHeight];
    const [width, height] = size.map((side) => Math.round(side * Math.min(1, FRAME / Math.max(...size))));
    return sent(width, height, (context) => context.drawImage(video, 0, 0, width, height), "image/jpeg");
  },
};

// The answer

const name = (mark) => (mark.rejected ? nothing : mark.label);
const certainty = ({ rejected, known, probability }) => (rejected ? 1 - known : probability);

function show(given) {
  const before = answer.marks.length;
  answer = { marks: [], text: "", reason: "", note: "", message: "", ...given };
  const { marks, text, reason, note, milliseconds } = answer;
  if (marks.length !== before) chosen = null;
  if (answer.preview) Object.assign(preview, { src: answer.preview, hidden: false });
  const many = answer.many = marks.length > 1 || Boolean(marks[0]?.separator);
  const why = reason.replace(`${nothing}: `, ""); // which stands there already
  const unread = reason && !marks.length && (why.startsWith("no ") ? why : `${nothing}: ${why}`);
  const message = answer.message || unread;
  put("message", message);
  put("text", many ? text || nothing : "");
  put("note", [!unread && why, note].filter(Boolean).join(". "));
  const lines = $("text").textContent.split("\n");
  $("text").style.setProperty("--lines", lines.length);
  $("text").style.setProperty("--longest", Math.max(...lines.map((line) => line.length)));
  $("readings").hidden = Boolean(message);
  $("answer").classList.toggle("many", many);
  const saw = `What the network saw: ${model?.image_size}×${model?.image_size} pixels, read in`;
  $("took").textContent = marks.length ? `${saw} ${milliseconds.toFixed(1)} ms` : "\xa0";
  showMarks();
  const one = marks.length && !many && `${name(marks[0])}${stream ? "" : `, ${percent(certainty(marks[0]))}`}`;
  speak([message || one || lines.join("; "), $("note").textContent].filter(Boolean).join(". "));
}

function showMarks() {
  const { marks, many } = answer;
  const sure = marks.map((mark) => (mark.separator ? Infinity : certainty(mark)));
  const selected = chosen ?? sure.indexOf(Math.min(...sure));
  layOut(marks);
  const cards = $("readings").querySelectorAll(":scope > div > *");
  marks.forEach((mark, index) => {
    const card = cards[index];
    if (mark.separator) return void (card.textContent = mark.label);
    const [seen, label, share] = card.children;
    Object.assign(seen, { src: mark.image, alt: "" });
    label.textContent = name(mark);
    share.textContent = percent(certainty(mark));
    card.className = `reading ${mark.rejected ? "rejected" : mark.label.length < 3 ? "short" : ""}`;
    card.disabled = !many;
    card.ariaPressed = many ? String(index === selected) : null;
  });
  offerWhy(marks[selected]);
  showBars(marks[selected]);
  showBoxes(selected);
}

/** Makes an element for each mark, a row a line. Those of the same layout stay, and with them the keyboard's focus. */
function layOut(marks) {
  const all = $("readings");
  const layout = marks.map(({ line, separator }) => `${line}${separator}`).join();
  if (layout === all.dataset.layout) return;
  all.dataset.layout = layout;
  all.replaceChildren();
  marks.forEach(({ line, separator }, index) => {
    if (line !== marks[index - 1]?.line) all.append(make("div"));
    const card = make(separator ? "span" : "button");
    if (!separator) card.append(make("img"), make("strong"), make("span"));
    card.onclick = () => choose(index);
    all.lastChild.append(card);
  });
}

function choose(index) {
  if (answer.marks[index].separator) return;
  chosen = index;
  showMarks();
}

// Why: what speaks for the answer, once somebody asks

let asking = null; // the mark whose explanation is shown or on its way

function offerWhy(mark) {
  const askable = model?.explains && mark && !mark.separator && !mark.rejected && !stream;
  put("ask", askable && (asking?.image !== mark.image || asking?.label !== mark.label) ? `Why ${mark.label}?` : "");
  if ($("ask").hidden && askable) return; // it is shown already
  asking = null;
  $("why").hidden = true;
  $("ask").onclick = () => explain(mark);
}

async function explain(mark) {
  asking = mark;
  put("ask", "");
  const [picture, caption] = $("why").children;
  caption.textContent = "Looking…";
  picture.hidden = true;
  $("why").hidden = false;
  let given;
  try {
    const body = Uint8Array.from(atob(mark.image.split(",")[1]), (letter) => letter.charCodeAt(0));
    const url = `explain?label=${encodeURIComponent(mark.label)}`;
    const response = await fetch(url, { method: "POST", body, signal: AbortSignal.timeout(TIMEOUT) });
    given = await response.json();
  } catch {
    given = { message: "The server did not answer." };
  }
  if (asking !== mark) return; // something else is shown by now
  caption.textContent = given.message ?? `Red speaks for ${mark.label}, blue against it.`;
  if (given.image) Object.assign(picture, { src: given.image, hidden: false, alt: caption.textContent });
  speak(caption.textContent);
}

function showBars(mark) {
  const shares = mark?.probabilities ?? [];
  const best = mark?.rejected ? -1 : shares.indexOf(Math.max(...shares));
  [...$("bars").children].forEach((row, index) => {
    row.className = index === best ? "best" : "";
    row.style.setProperty("--p", shares[index] ?? 0);
    row.lastChild.textContent = index in shares ? percent(shares[index]) : "";
  });
}

/** Draws a box around each mark. The picture is centred on the stage. */
function showBoxes(selected) {
  const { marks, many, width, height } = answer;
  document.querySelector("main").style.setProperty("--ratio", width ? width / height : "");
  $("boxes").replaceChildren(...marks.map((mark, index) => {
    const [left, top, right, bottom] = mark.box;
    const frame = make("i");
    const [x, y] = [width, height].map((size) => (pixels) => `${(100 * pixels) / size}%`);
    Object.assign(frame.style, { left: x(left), top: y(top), width: x(right - left), height: y(bottom - top) });
    frame.className = mark.separator ? "separator" : mark.rejected ? "rejected" : "";
    frame.classList.toggle("chosen", many && index === selected);
    frame.classList.toggle("high", top < 0.1 * height); // no room above it
    if (!mark.separator && (many || source !== "draw")) frame.append(make("b", many && mark.rejected ? "?" : name(mark)));
    if (many) frame.onclick = () => choose(index);
    return frame;
  }));
}

let said = "";
let spoken;

/** For screen readers, once the answer is stable. */
function speak(text) {
  if (text === said) return;
  said = text;
  clearTimeout(spoken);
  spoken = setTimeout(() => { $("spoken").textContent = text; }, 600);
}

// Drawing

const shape = () => sheet.clientWidth / sheet.clientHeight;
let drawing = false;
let painted = 0;

/** The strokes that are near each other, as digits: { box: [left, top, right, bottom], members: numbers of strokes }. */
function digits() {
  let found = [];
  strokes.forEach((stroke, index) => {
    const lows = stroke.reduce(([x, y], [u, v]) => [Math.min(x, u), Math.min(y, v)]);
    const highs = stroke.reduce(([x, y], [u, v]) => [Math.max(x, u), Math.max(y, v)]);
    let digit = { box: [...lows, ...highs], members: [index] };
    found = found.filter((other) => {
      if (gap(digit, other) > NEAR) return true;
      const box = digit.box.map((side, i) => Math[i < 2 ? "min" : "max"](side, other.box[i]));
      digit = { box, members: [...digit.members, ...other.members] };
      return false;
    });
    found.push(digit);
  });
  return found;
}

function gap({ box: [left, top, right, bottom] }, { box }) {
  return Math.max(left - box[2], box[0] - right, top - box[3], box[1] - bottom);
}

/** The width of each stroke's line, in heights of the sheet. */
function widths() {
  const all = digits();
  const size = ({ box: [left, top, right, bottom] }) => Math.max(right - left, bottom - top);
  const large = all.filter((digit) => size(digit) >= DOT);
  const lines = [];
  for (const digit of all) {
    const isDot = size(digit) < DOT && !(drawing && digit.members.includes(strokes.length - 1));
    const distances = isDot ? large.map((other) => gap(digit, other)) : [];
    const like = large[distances.indexOf(Math.min(...distances))] ?? digit;
    for (const index of digit.members) lines[index] = $("pen").value * Math.min(1, Math.max(THINNEST, size(like) / FULL));
  }
  return lines;
}

/** Paints the strokes over the whole of a canvas. */
function paint(context, ink) {
  const { width, height } = context.canvas;
  const lines = widths();
  Object.assign(context, { strokeStyle: ink, lineCap: "round", lineJoin: "round" });
  strokes.forEach((stroke, index) => {
    const points = stroke.map(([x, y]) => [x * height + width / 2, (y + 0.5) * height]);
    context.lineWidth = lines[index] * height;
    context.beginPath();
    context.moveTo(...points[0]);
    for (let i = 1; i < points.length - 1; i++) { // curves through midpoints are smooth
      const [[x, y], [u, v]] = [points[i], points[i + 1]];
      context.quadraticCurveTo(x, y, (x + u) / 2, (y + v) / 2);
    }
    const [x, y] = points.at(-1);
    context.lineTo(x + 0.01, y); // a tap is a dot
    context.stroke();
  });
}

function repaint() {
  cancelAnimationFrame(painted);
  painted = requestAnimationFrame(() => {
    const [width, height] = [sheet.clientWidth, sheet.clientHeight].map((size) => Math.round(size * devicePixelRatio));
    Object.assign(sheet, { width, height });
    paint(sheet.getContext("2d"), getComputedStyle(sheet).color);
  });
  $("draw").classList.toggle("drawn", strokes.length > 0);
}

function extend(event) {
  const { left, top, width, height } = sheet.getBoundingClientRect();
  strokes.at(-1).push([(event.clientX - left - width / 2) / height, (event.clientY - top) / height - 0.5]);
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
  redraw();
}

function redraw() {
  repaint();
  if (strokes.length && source === "draw") read();
}

/** Ends a stroke; a dot then gets its width. */
function lift() {
  drawing = false;
  redraw();
}

/** Keeps all of the drawing on a sheet of another shape, as of a telephone that was turned. */
function refit() {
  const reach = strokes.flat().reduce((most, [x]) => Math.max(most, Math.abs(x)), 0.5);
  const scale = shape() / 2 / reach;
  if (scale < 1) strokes = strokes.map((stroke) => stroke.map((point) => point.map((at) => scale * at)));
  redraw();
}

sheet.addEventListener("pointerdown", draw);
sheet.addEventListener("pointermove", draw);
sheet.addEventListener("lostpointercapture", lift);
$("pen").oninput = redraw;
new ResizeObserver(refit).observe(sheet);
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
  await preview.decode().catch(() => { preview.hidden = true; });
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

// Tabs and keys

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

// The model

/** Gets what describes the model; false without a server. */
async function getModel() {
  try {
    model = await (await fetch("model", { signal: AbortSignal.timeout(5000) })).json();
  } catch {
    return false;
  }
  const names = model.class_names;
  const longest = Math.max(...names.map((name) => name.length));
  const wanted = model.noun === "class" ? "a picture" : `a ${model.noun}, or several`;
  nothing = model.noun === "class" ? "none of the classes" : `no ${model.noun}`;
  $("draw-hint").textContent = `Draw ${wanted}`;
  $("camera-hint").textContent = `Start the camera, and show it ${wanted}`;
  $("model").textContent = `${model.file} · ${model.dataset}, ${names.length} classes`;
  $("bars").style.setProperty("--name", `${Math.min(0.62 * longest + 0.6, 9)}em`);
  $("bars").classList.toggle("dense", names.length > 16);
  $("bars").replaceChildren(...names.map((name) => {
    const row = make("li");
    row.append(Object.assign(make("span", name), { title: name }), make("i"), make("span"));
    return row;
  }));
  showMarks();
  return true;
}

if (!(await getModel())) await untilBack();
