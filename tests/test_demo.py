"""python -m digits.demo: the server behind the page, with whatever may be sent to it."""

import base64
import http.client
import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
import uvicorn
from conftest import HEAVY, PROJECT, Command
from PIL import Image
from starlette.applications import Starlette

from digits import demo
from digits.checkpoints import Checkpoint
from digits.data import DigitsDataModule
from digits.explain import attribution
from digits.networks import CNN
from digits.pictures import reader
from digits.pictures.reader import ImageClassifier, Reading, load_classifier

PAGES = ("/", "/style.css", "/app.js")


@pytest.fixture(scope="module")
def classifier(trained: Path) -> ImageClassifier:
    return load_classifier(trained / "checkpoints" / "best.ckpt")


@dataclass
class Answer:
    status: int
    headers: dict[str, str]  # names in small letters
    content: bytes

    @property
    def json(self) -> dict:
        return json.loads(self.content)


@dataclass
class Client:
    """Asks a server on this machine; paths are sent as they stand."""

    port: int

    def ask(self, method: str, path: str, body: bytes | Iterable[bytes] | None = None, **headers: str) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            return Answer(answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read())
        finally:
            connection.close()

    def get(self, path: str, **headers: str) -> Answer:
        return self.ask("GET", path, **headers)

    def predict(self, body: bytes | Iterable[bytes], query: str = "", **headers: str) -> Answer:
        return self.ask("POST", f"/predict{query}", body, **headers)

    def one(self, body: bytes) -> dict:
        """The only mark in a picture."""
        [mark] = self.predict(body).json["marks"]
        return mark


@contextmanager
def serving(app: Starlette) -> Iterator[Client]:
    """Serves in a thread of this process."""
    server = uvicorn.Server(uvicorn.Config(app, http="h11", lifespan="off", log_level="critical"))
    with demo.listen("127.0.0.1", 0) as listener:
        thread = threading.Thread(target=server.run, args=[[listener]])
        thread.start()
        try:
            yield Client(listener.getsockname()[1])
        finally:
            server.should_exit = True
            thread.join()


@pytest.fixture(scope="module")
def client(classifier: ImageClassifier) -> Iterator[Client]:
    with serving(demo.application(classifier, "best.ckpt")) as client:
        yield client


@pytest.fixture(scope="module")
def exported(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An exported model, which a server starts with at once."""
    from digits.checkpoints import Checkpoint
    from digits.onnx_model import to_onnx

    path = trained / "checkpoints" / "best.ckpt"
    checkpoint = Checkpoint.open(path)
    facts = checkpoint.facts
    output = tmp_path_factory.mktemp("exported") / "best.onnx"
    output.write_bytes(to_onnx(checkpoint.network(), facts))
    return output


Server = tuple[Client, subprocess.Popen]


def started(*words: object) -> tuple[str, subprocess.Popen]:
    """A server's first lines, down to its address, and its process."""
    command = [sys.executable, "-m", "digits.demo", *map(str, words)]
    process = subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    said = ""
    for line in process.stdout:
        said += line
        if "http://" in line:
            return said, process
    process.wait()
    pytest.fail(f"no server: {said}{process.stderr.read()}")


@pytest.fixture(scope="module")
def server(exported: Path) -> Iterator[Server]:
    """A real server and its process. It has to be there in the end, without having complained."""
    said, process = started(f"ckpt_path={exported}", "port=0")
    yield Client(int(re.search(r"http://127\.0\.0\.1:(\d+)", said)[1])), process
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    _, complaints = process.communicate(timeout=10)
    assert process.returncode in (0, 130)
    assert "Traceback" not in complaints


def page(digits: list[np.ndarray], scale: int = 6) -> Image.Image:
    """Images of MNIST, dark on a larger white page, beside each other."""
    sheet = np.full((28 * scale + 90, 34 * scale * len(digits) + 130), 255, np.uint8)
    for i, digit in enumerate(digits):
        enlarged = np.asarray(Image.fromarray(digit).resize((28 * scale, 28 * scale), Image.Resampling.BICUBIC))
        left = 90 + 34 * scale * i
        sheet[30 : 30 + 28 * scale, left : left + 28 * scale] = 255 - enlarged
    return Image.fromarray(sheet)


def encoded(picture: Image.Image, kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    picture.save(file, kind)
    return file.getvalue()


@pytest.fixture(scope="module")
def digits(sample: DigitsDataModule) -> list[tuple[np.ndarray, str]]:
    """Test images (28, 28) and what they are."""
    test = sample.splits.test
    return [(image[0].numpy(), str(int(target))) for image, target in zip(test.images, test.target, strict=True)]


@pytest.fixture(scope="module")
def picture(digits: list) -> bytes:
    """A page with one digit, as a PNG."""
    return encoded(page([digits[0][0]]))


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_reads_real_digits(client: Client, digits: list[tuple[np.ndarray, str]], kind: str) -> None:
    answers = [client.predict(encoded(page([image]), kind)).json for image, _ in digits[::10]]
    right = [answer["text"] == name for answer, (_, name) in zip(answers, digits[::10], strict=True)]
    assert np.mean(right) >= 0.9


def test_answer_is_the_networks_on_the_picture_that_comes_with_it(
    client: Client, digits: list[tuple[np.ndarray, str]], trained: Path
) -> None:
    network = CNN().eval()
    network.load_state_dict(torch.load(trained / "mnist_cnn_model.pth", weights_only=True))
    given = client.predict(encoded(page([digits[0][0]]))).json
    assert set(given) == {"text", "reason", "note", "width", "height", "milliseconds", "marks"}
    [answer] = given["marks"]
    assert set(answer) == {
        *("label", "probability", "probabilities", "image", "box", "known", "rejected", "separator", "line")
    }
    assert (given["text"], given["reason"], given["width"], given["height"]) == (
        *(answer["label"], ""),
        *page([digits[0][0]]).size,
    )
    head, _, content = answer["image"].partition(",")
    assert head == "data:image/png;base64"
    seen = np.array(Image.open(io.BytesIO(base64.b64decode(content))))
    assert (seen.shape, seen.dtype) == ((28, 28), np.uint8)
    with torch.inference_mode():
        logits = network((torch.from_numpy(seen)[None, None] / 255 - 0.1307) / 0.3081)
    temperature = Checkpoint.open(trained).facts.temperature
    softmax = (logits / temperature).softmax(dim=1)[0].tolist()
    found = sum(answer["probabilities"])  # probability that the mark is one of the classes, and was found right
    assert 0.9 < found <= 1
    assert answer["probabilities"] == pytest.approx([found * share for share in softmax], abs=1e-5)
    assert answer["probability"] == max(answer["probabilities"])
    assert answer["label"] == str(np.argmax(answer["probabilities"]))
    left, top, right, bottom = answer["box"]
    ink_rows, ink_columns = np.nonzero(np.asarray(page([digits[0][0]])) < 128)
    expected = [ink_columns.min(), ink_rows.min(), ink_columns.max() + 1, ink_rows.max() + 1]
    assert np.abs(np.array([left, top, right, bottom]) - expected).max() <= 10  # enlarged, it is soft at its edges


def test_several_digits_from_left_to_right(client: Client, digits: list[tuple[np.ndarray, str]]) -> None:
    # Pieces that do not touch are another test's matter.
    chosen = [next(image for image, name in digits if name == wanted) for wanted in "301"]
    for query in ("", "?mode=auto", "?mode=line"):
        answer = client.predict(encoded(page(chosen)), query).json
        assert answer["text"] == "".join(mark["label"] for mark in answer["marks"]) == "301"
        lefts = [mark["box"][0] for mark in answer["marks"]]
        assert lefts == sorted(lefts)


def test_one_digit_was_asked_for(client: Client, digits: list[tuple[np.ndarray, str]]) -> None:
    chosen = [next(image for image, name in digits if name == wanted) for wanted in "11"]
    assert len(client.predict(encoded(page(chosen)), "?mode=digit").json["marks"]) == 1


def decoded(url: str) -> tuple[str, Image.Image]:
    """The kind of a data URL, and its picture."""
    kind, _, content = url.partition(";base64,")
    return kind, Image.open(io.BytesIO(base64.b64decode(content)))


@pytest.mark.parametrize("orientation", [1, 6])
def test_boxes_are_in_the_upright_picture_and_so_is_the_preview(
    client: Client, digits: list[tuple[np.ndarray, str]], orientation: int
) -> None:
    upright = page([digits[0][0]], scale=24).convert("RGB")  # several times as large as what is sent back
    stored = upright.transpose(Image.Transpose.ROTATE_90) if orientation == 6 else upright  # a telephone held sideways
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = io.BytesIO()
    stored.save(file, "TIFF", exif=exif)
    answer = client.predict(file.getvalue(), "?preview=true").json
    assert answer["width"] / answer["height"] == pytest.approx(upright.width / upright.height, abs=0.01)
    rows, columns = np.nonzero(np.asarray(upright.convert("L")) < 128)
    scale = answer["width"] / upright.width
    expected = np.array([columns.min(), rows.min(), columns.max(), rows.max()]) * scale
    assert answer["marks"][0]["box"] == pytest.approx(expected.tolist(), abs=0.05 * answer["width"])
    kind, preview = decoded(answer["preview"])
    assert (kind, preview.format) == ("data:image/jpeg", "JPEG")
    assert max(preview.size) <= demo.PREVIEW_PIXELS
    small = upright.resize(preview.size).convert("L")
    assert np.corrcoef(np.asarray(preview.convert("L")).ravel(), np.asarray(small).ravel())[0, 1] > 0.95


class Changed:
    """A classifier whose readings are changed."""

    def __init__(self, classifier: ImageClassifier, change: Callable[[Reading], Reading]) -> None:
        self.facts, self.model = classifier.facts, classifier.model
        self.read = lambda picture, mode="auto": change(classifier.read(picture, mode))


def rejected(reading: Reading) -> Reading:
    """Takes all marks for none of the classes."""
    marks = [replace(mark, known=0.03, rejected=True, probability=0.03 * mark.probability) for mark in reading.marks]
    return Reading(marks, reason="looks like none of the classes")


def test_what_is_no_digit_and_what_stands_between_digits(
    classifier: ImageClassifier, digits: list[tuple[np.ndarray, str]], picture: bytes
) -> None:
    with serving(demo.application(Changed(classifier, rejected), "x")) as client:
        answer = client.predict(picture).json
    assert (answer["text"], answer["reason"]) == ("", "looks like none of the classes")
    [mark] = answer["marks"]
    assert (mark["rejected"], mark["known"]) == (True, 0.03)

    def with_a_point(reading: Reading) -> Reading:
        first, point, *rest = reading.marks
        point = replace(point, label=".", separator=True, probabilities={})
        return Reading([first, point, *(replace(mark, line=1) for mark in rest)], note="two lines")

    with serving(demo.application(Changed(classifier, with_a_point), "x")) as client:
        answer = client.predict(encoded(page([next(image for image, name in digits if name == "1")] * 3))).json
    assert (answer["text"], answer["note"]) == ("1.\n1", "two lines")
    assert [(mark["separator"], mark["line"], len(mark["probabilities"])) for mark in answer["marks"]] == [
        *((False, 0, 10), (True, 0, 0), (False, 1, 10))
    ]


def truncated(picture: bytes) -> bytes:
    return picture[: len(picture) // 2]


NO_PICTURES = {
    "nothing": lambda _: b"",
    "text": lambda _: b"hello",
    "half a PNG": lambda picture: truncated(encoded(picture)),
    "half a JPEG": lambda picture: truncated(encoded(picture, "JPEG")),
    "bomb": lambda _: encoded(Image.new("1", (30_000, 30_000))),
    "drawing program": lambda _: b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>',
    "archive": lambda _: b"PK\x03\x04" + bytes(1000),
    "zeros": lambda _: bytes(1_000_000),
}


@pytest.mark.parametrize("mode", ["auto", "digit", "line"])
@pytest.mark.parametrize("size", [(200, 100), (1, 1)])
def test_nothing_found_is_an_answer(client: Client, mode: str, size: tuple[int, int]) -> None:
    answer = client.predict(encoded(Image.new("L", size, 255)), f"?mode={mode}")
    assert answer.status == 200
    assert answer.json["reason"]
    assert (answer.json["marks"], answer.json["text"]) == ([], "")
    assert (answer.json["width"], answer.json["height"]) == size


@pytest.mark.parametrize("what", NO_PICTURES)
def test_what_is_no_picture_gets_one_line(client: Client, digits: list[tuple[np.ndarray, str]], what: str) -> None:
    answer = client.predict(NO_PICTURES[what](page([digits[0][0]])))
    assert answer.status == 422
    assert set(answer.json) == {"message"}
    message = answer.json["message"]
    assert message.splitlines() == [message]
    assert "Error" not in message or "(" in message  # a class of exception at most in brackets


def test_unknown_mode_is_refused(client: Client) -> None:
    answer = client.predict(b"x", "?mode=word")
    assert (answer.status, answer.json) == (422, {"message": "mode=word: there are auto, digit, line"})


def test_too_large_a_body_is_refused(client: Client) -> None:
    announced = client.predict(bytes(demo.MOST_BYTES + 1))
    chunks = (bytes(2**20) for _ in range(demo.MOST_BYTES // 2**20 + 1))
    unannounced = client.predict(chunks)
    for answer in (announced, unannounced):
        assert answer.status == 413
        assert "20 MB" in answer.json["message"]
    assert client.predict(bytes(demo.MOST_BYTES)).status == 422  # read, and no picture


def test_too_slow_a_body_is_given_up(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "UPLOAD_SECONDS", 0.1)
    with socket.create_connection(("127.0.0.1", client.port)) as connection:
        head = f"POST /predict HTTP/1.1\r\nHost: 127.0.0.1:{client.port}\r\nContent-Length: 9\r\n\r\n"
        connection.sendall(head.encode() + b"1234")
        assert connection.recv(100).startswith(b"HTTP/1.1 408 ")


def test_tells_of_its_model(client: Client) -> None:
    assert client.get("/model").json == {
        "file": "best.ckpt",
        "dataset": "mnist5k",
        "class_names": list("0123456789"),
        "noun": "digit",
        "image_size": 28,
        "most_bytes": demo.MOST_BYTES,
        "explains": True,
    }


def test_other_methods_and_paths(client: Client) -> None:
    for path in (*PAGES, "/model"):
        assert client.get(path).status == client.ask("HEAD", path).status == 200
        assert client.ask("POST", path).status == client.ask("DELETE", path).status == 405
    for method in ("GET", "PUT", "DELETE", "OPTIONS"):
        assert client.ask(method, "/predict").status == 405
    for path in ("/nothing", "/index.html", "/page", "/predict/x", "/demo.py"):
        answer = client.get(path)
        assert (answer.status, answer.json) == (404, {"message": "Not Found"})


def test_each_answer_is_guarded(client: Client) -> None:
    for answer in (*(client.get(path) for path in (*PAGES, "/model", "/nothing")), client.predict(b"")):
        policy = dict(part.split(maxsplit=1) for part in answer.headers["content-security-policy"].split("; "))
        assert policy["default-src"] == "'none'"
        assert policy["script-src"] == policy["connect-src"] == policy["style-src"] == "'self'"
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cache-control"] == "no-store"
        assert not any(name.startswith("access-control") for name in answer.headers)


def test_page_is_small_and_has_nothing_from_elsewhere(client: Client) -> None:
    answers = [client.get(path) for path in PAGES]
    assert sum(len(answer.content) for answer in answers) < 36_000
    kinds = [answer.headers["content-type"].partition(";")[0] for answer in answers]
    assert kinds == ["text/html", "text/css", "text/javascript"]
    for answer in answers:
        text = answer.content.decode()
        assert set(re.findall(r"\w+://[\w.]+", text)) <= {"http://www.w3.org"}  # the name of SVG
        assert not re.search(r"@import|<style|\son\w+=", text)


def test_other_sites_are_refused(classifier: ImageClassifier, client: Client, picture: bytes) -> None:
    for path in PAGES:
        assert client.get(path, host="example.org").status == 400  # a name that was made to lead here
    own = f"127.0.0.1:{client.port}"
    for origin in ("http://example.org", "null", "http://127.0.0.1:9", f"http://{own}.example.org"):
        assert client.predict(picture, origin=origin).status == 403
    assert client.predict(picture, origin=f"http://{own}").status == 200
    for name in ("localhost", "[::1]"):
        assert client.get("/", host=f"{name}:{client.port}").status == 200
    with serving(demo.application(classifier, "x", ["*"])) as anywhere:
        assert anywhere.get("/", host="example.org").status == 200


def test_failure_of_the_network_tells_nothing_of_the_inside(classifier: ImageClassifier, picture: bytes) -> None:
    def fail(_: np.ndarray) -> np.ndarray:
        raise RuntimeError("secret")

    with serving(demo.application(ImageClassifier(fail, classifier.facts), "x")) as broken:
        answer = broken.predict(picture)
    assert answer.status == 500
    assert b"secret" not in answer.content


def test_nothing_but_the_page_can_be_fetched(server: Server) -> None:
    client, _ = server
    for up in ("..", "%2e%2e", "..%2f..", "..%5c..", "....//..", "%252e%252e"):
        for target in ("demo.py", "pyproject.toml", "etc/passwd"):
            for start in ("/", "//", "/app.js/", "/static/", "/page/"):
                for times in (1, 3, 16):
                    assert client.get(start + (up + "/") * times + target).status == 404
    for path in ("/etc/passwd", "//etc/passwd", "/%00", "/app.js%00.html", "/" + "a" * 5000):
        assert client.get(path).status == 404
    assert client.get("http://example.org/etc/passwd").status in (400, 404)


def test_64_at_once(server: Server, picture: bytes) -> None:
    client, _ = server
    bodies = {"good": picture, "text": b"hello", "half": truncated(picture), "large": bytes(demo.MOST_BYTES + 1)}
    statuses = {"good": 200, "text": 422, "half": 422, "large": 413}
    expected = client.one(picture)["probabilities"]
    kinds = ["good", "text", "good", "half", "good", "large", "good", "good"] * 8
    with ThreadPoolExecutor(64) as pool:
        answers = list(pool.map(lambda kind: client.predict(bodies[kind]), kinds))
    for kind, answer in zip(kinds, answers, strict=True):
        assert answer.status == statuses[kind]
        if kind == "good":
            assert answer.json["marks"][0]["probabilities"] == pytest.approx(expected, abs=1e-5)


def memory_mb(process: subprocess.Popen) -> float:
    """The most that a process has held so far."""
    [kilobytes] = re.findall(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{process.pid}/status").read_text())
    return int(kilobytes) / 1000


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
def test_many_large_bodies_do_not_fill_the_memory(server: Server) -> None:
    client, process = server
    body = bytes(15_000_000)
    client.predict(body)
    before = memory_mb(process)
    with ThreadPoolExecutor(32) as pool:
        answers = list(pool.map(lambda _: client.predict(body), range(32)))
    assert {answer.status for answer in answers} == {422}
    assert memory_mb(process) - before < 200  # of 480 that were sent


def test_clients_that_go_away_do_no_harm(server: Server, picture: bytes) -> None:
    client, _ = server
    head = f"POST /predict HTTP/1.1\r\nHost: 127.0.0.1:{client.port}\r\nContent-Length: {len(picture)}\r\n\r\n".encode()
    for content in (head, head + picture[:100], head + picture, b"\x00\xff nonsense\r\n\r\n", b"GET / HTTP/9\r\n\r\n"):
        for _ in range(5):
            with socket.create_connection(("127.0.0.1", client.port)) as connection:
                connection.sendall(content)
    assert client.predict(picture).status == 200


def test_starts_and_ends(exported: Path) -> None:
    said, process = started(f"ckpt_path={exported}", "port=0")
    assert f"model: {exported}\n" in said
    url = re.search(r"open (http://127\.0\.0\.1:(\d+)) ", said)
    assert Client(int(url[2])).get("/").status == 200
    process.send_signal(signal.SIGINT)
    _, complaints = process.communicate(timeout=10)
    assert (process.returncode, complaints) in ((0, ""), (130, ""))


@pytest.mark.parametrize(("exports", "heavy"), [(False, HEAVY), (True, HEAVY | {"torch"})])
def test_starts_without_what_it_does_not_need(
    exports: bool, heavy: set[str], trained: Path, exported: Path, digits: list, picture: bytes, tmp_path: Path
) -> None:
    (tmp_path / "digit.png").write_bytes(picture)
    path = exported if exports else trained / "checkpoints" / "best.ckpt"
    program = (
        "import sys\nimport uvicorn\nfrom digits import demo\nmade = []\n"
        "application = demo.application\ndemo.application = lambda *one: made.append(one[0]) or application(*one)\n"
        "uvicorn.Server.run = lambda *_: None\n"
        f"sys.argv = ['demo.py', 'ckpt_path={path}', 'port=0']\ndemo.main()\n"
        f"print(made[0].predict({str(tmp_path / 'digit.png')!r}).label)\n"
        f"assert not {heavy!r} & set(sys.modules), {heavy!r} & set(sys.modules)"
    )
    ended = subprocess.run([sys.executable, "-c", program], cwd=PROJECT, capture_output=True, text=True)
    assert (ended.returncode, ended.stdout.split()[-1:]) == (0, [digits[0][1]]), ended.stderr


def test_help_waits_for_nothing_heavy() -> None:
    program = (
        "import sys\nfrom digits import demo\nsys.argv = ['demo.py', '--help']\ndemo.main()\n"
        "assert not {'torch', 'onnxruntime', 'skimage', 'uvicorn'} & set(sys.modules)"
    )
    ended = subprocess.run([sys.executable, "-c", program], cwd=PROJECT, capture_output=True, check=True, text=True)
    assert "python -m digits.demo ckpt_path=" in ended.stdout


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch, classifier: ImageClassifier) -> list[Path]:
    """Has the command stop where it would serve; which model it would serve."""
    paths = []

    def load_classifier(path: Path, **_: object) -> ImageClassifier:
        paths.append(path)
        return classifier

    monkeypatch.setattr(reader, "load_classifier", load_classifier)
    monkeypatch.setattr(uvicorn.Server, "run", lambda *_: None)
    return paths


def test_takes_the_newest_checkpoint_and_says_so(command: Command, served: list[Path], tmp_path: Path) -> None:
    for age, name in ((100, "2000"), (10, "1999")):
        folder = tmp_path / "logs" / "train" / "runs" / name
        best = folder / "checkpoints" / "best.ckpt"
        best.parent.mkdir(parents=True)
        best.touch()
        (folder / "metrics.json").write_text('{"status": "completed", "best_checkpoint": "checkpoints/best.ckpt"}')
        (folder / "config.yaml").touch()
        os.utime(folder / "config.yaml", (time.time() - age,) * 2)
    outcome = command("digits.demo", "port=0")
    assert outcome.code == 0, outcome.err
    assert served == [best]
    assert f"model: {best}, the newest under {tmp_path / 'logs'}\n" in outcome.out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "Train one: python train.py"),
        (["port=abc"], "port=abc: should be a valid integer"),
        (["port=70000"], "port=70000: should be less than or equal to 65535"),
        (["host=no.such.host.invalid"], "host=no.such.host.invalid port=8000: "),
        (["host=7"], "host=7: should be a valid string"),
        (["ckpt_path=[a.ckpt,b.ckpt]"], "ckpt_path=['a.ckpt', 'b.ckpt']: give a name"),
        (["ckpt_path=nowhere.ckpt"], "nowhere.ckpt: no such file"),
        (["ckpt_path=nowhere.onnx"], "nowhere.onnx: No such file"),
        (["prot=8000"], "there is no key prot. Did you mean port?"),
    ],
)
def test_what_does_not_start(words: list[str], message: str, command: Command) -> None:
    outcome = command("digits.demo", *words, *([] if "port" in " ".join(words) or not words else ["port=0"]))
    assert outcome.code == 1
    [line] = outcome.err.splitlines()
    assert line.startswith("error: ")
    assert message.removesuffix("8000: ") in line


def test_taken_port_offers_another(command: Command, served: list[Path], exported: Path) -> None:
    with demo.listen("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        outcome = command("digits.demo", f"ckpt_path={exported}", f"port={port}")
    assert outcome.code == 1
    [line] = outcome.err.splitlines()
    other = re.fullmatch(rf"error: host=127\.0\.0\.1 port={port}: another program has it; port=(\d+) is free", line)
    with demo.listen("127.0.0.1", int(other[1])):
        pass
    assert not served


def test_answers_are_not_held_back() -> None:
    with demo.listen("127.0.0.1", 0) as listener, socket.create_connection(listener.getsockname()):
        accepted, _ = listener.accept()
        with accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


@pytest.mark.parametrize("host", ["0.0.0.0", "localhost"])
def test_other_hosts(command: Command, served: list[Path], exported: Path, host: str) -> None:
    outcome = command("digits.demo", f"ckpt_path={exported}", "port=0", f"host={host}")
    assert outcome.code == 0, outcome.err
    assert ("any other address" in outcome.out) == (host == "0.0.0.0")


def test_opens_the_browser(
    command: Command, served: list[Path], exported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    monkeypatch.setattr(demo.webbrowser, "open", opened.append)
    outcome = command("digits.demo", f"ckpt_path={exported}", "port=0", "open_browser=true")
    assert outcome.code == 0, outcome.err
    [url] = opened
    assert f"open {url} " in outcome.out


# Why: what speaks for an answer


def test_explanation_is_of_the_networks_image(
    client: Client, classifier: ImageClassifier, picture: bytes, sample: DigitsDataModule
) -> None:
    mark = client.one(picture)
    seen = base64.b64decode(mark["image"].partition(",")[2])
    given = client.ask("POST", f"/explain?label={mark['label']}", seen)
    assert given.status == 200
    shown = np.asarray(decoded(given.json["image"])[1]).astype(int)  # (28, 28, 3)
    pixels = np.array(Image.open(io.BytesIO(seen)))
    weights = attribution(classifier.model, pixels[None], int(mark["label"]))
    red, blue = (weights > 0.1 * np.abs(weights).max()), (weights < -0.1 * np.abs(weights).max())
    assert (shown[red, 0] > shown[red, 2]).all()
    assert (shown[blue, 0] < shown[blue, 2]).all()
    assert (shown[weights == 0].std(axis=1) == 0).all()  # grey
    assert client.get("/model").json["explains"]


@pytest.mark.parametrize(
    ("query", "body", "message"),
    [
        ("", "{picture}", "label=: no class of mnist5k"),
        ("?label=ten", "{picture}", "label=ten: no class of mnist5k"),
        ("?label=3", "{picture}", "an image of 28×28 pixels is needed"),
        ("?label=3", "none", "picture"),
    ],
)
def test_what_cannot_be_explained(client: Client, picture: bytes, query: str, body: str, message: str) -> None:
    answer = client.ask("POST", f"/explain{query}", picture if body == "{picture}" else body.encode())
    assert answer.status == 422
    assert message in answer.json["message"]


def test_explanations_are_not_for_other_sites(client: Client, picture: bytes) -> None:
    assert client.ask("POST", "/explain?label=3", picture, origin="http://evil.example").status == 403


def test_without_gradients_there_is_no_explanation(exported: Path, picture: bytes) -> None:
    with serving(demo.application(load_classifier(exported), "best.onnx")) as client:
        assert client.get("/model").json["explains"] is False
        assert client.ask("POST", "/explain?label=3", picture).status == 404
