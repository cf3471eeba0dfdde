"""The page of python -m digits.demo in a real browser: drawn on with the mouse, fed with files and with a camera."""

import io
import math
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pictures.sheets import page, picture
from PIL import Image
from test_demo import Changed, decoded, encoded, rejected, serving
from test_demo import page as paper

from digits import demo
from digits.data import DigitsDataModule
from digits.model_facts import ModelFacts
from digits.pictures.reader import ImageClassifier, Reading, load_classifier

playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed: make setup")
Page = playwright.Page
expect = playwright.expect

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: apt-get install chromium")

# As one writes them: each a list of strokes, each a list of points, from (0, 0), top left, to (1, 1).
TURN = [2 * math.pi * step / 16 for step in range(17)]
STROKES = {
    "0": [[(0.5 - 0.2 * math.sin(angle), 0.5 - 0.33 * math.cos(angle)) for angle in TURN]],
    "1": [[(0.5, 0.16), (0.5, 0.5), (0.49, 0.84)]],
    "2": [[(0.3, 0.3), (0.38, 0.19), (0.54, 0.16), (0.66, 0.27), (0.62, 0.42), (0.28, 0.81), (0.5, 0.8), (0.74, 0.81)]],
    "3": [
        [
            *[(0.32, 0.24), (0.44, 0.16), (0.58, 0.17), (0.66, 0.28), (0.6, 0.42), (0.46, 0.47)],
            *[(0.6, 0.51), (0.69, 0.63), (0.63, 0.79), (0.46, 0.84), (0.31, 0.76)],
        ]
    ],
    "4": [[(0.36, 0.18), (0.28, 0.54), (0.72, 0.54)], [(0.62, 0.18), (0.6, 0.5), (0.58, 0.84)]],
    "7": [[(0.28, 0.2), (0.72, 0.19), (0.62, 0.4), (0.52, 0.62), (0.46, 0.84)]],
}


@pytest.fixture(scope="module")
def classifier(trained: Path) -> ImageClassifier:
    return load_classifier(trained / "checkpoints" / "best.ckpt")


@pytest.fixture(scope="module")
def url(classifier: ImageClassifier) -> Iterator[str]:
    with serving(demo.application(classifier, "best.ckpt")) as client:
        yield f"http://127.0.0.1:{client.port}/"


@pytest.fixture(scope="module")
def five(sample: DigitsDataModule) -> np.ndarray:
    """A real 5, (28, 28), in one piece: pieces that do not touch are another test's matter."""
    test = sample.splits.test
    return test.images[(test.target == 5).nonzero()[2, 0], 0].numpy()


@pytest.fixture(scope="module")
def held_up(five: np.ndarray) -> Image.Image:
    """The 5 on a sheet, not in the middle."""
    sheet = Image.new("RGB", (640, 480), (225, 222, 214))
    digit = Image.fromarray(255 - five).resize((200, 200), Image.Resampling.BICUBIC).convert("RGB")
    sheet.paste(Image.blend(digit, Image.new("RGB", digit.size, (225, 222, 214)), 0.3), (380, 40))
    return sheet


@pytest.fixture(scope="module")
def browser(held_up: Image.Image, tmp_path_factory: pytest.TempPathFactory):
    """Chromium, before whose camera the 5 is held."""
    film = tmp_path_factory.mktemp("camera") / "five.mjpeg"
    held_up.save(film, "JPEG", quality=95)  # a film of one frame
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(
            executable_path=CHROMIUM,
            args=[
                "--no-sandbox",  # which containers do not allow
                "--use-fake-device-for-media-stream",
                f"--use-file-for-fake-video-capture={film}",
            ],
        )
        yield browser
        browser.close()


class Visit:
    """A page opened in a window of its own, and what it asked for and complained of."""

    def __init__(self, browser, url: str, **settings: object) -> None:
        self.context = browser.new_context(**{"viewport": {"width": 1120, "height": 800}} | settings)
        self.page: Page = self.context.new_page()
        self.page.set_default_timeout(10_000)
        self.requests: list[str] = []
        self.complaints: list[str] = []
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.goto(url)
        expect(self.page.locator("#model")).not_to_be_empty()

    def draw(self, digit: str, left: float = 0, size: float = 1, top: float | None = None) -> None:
        """Draws with the mouse; all in heights of the sheet; without a `top`, in the middle."""
        top = (1 - size) / 2 if top is None else top
        box = self.page.locator("#sheet").bounding_box()
        height, mouse = box["height"], self.page.mouse
        for stroke in STROKES[digit]:
            points = [(box["x"] + (left + size * x) * height, box["y"] + (top + size * y) * height) for x, y in stroke]
            mouse.move(*points[0])
            mouse.down()
            for point in points[1:]:
                mouse.move(*point, steps=4)
            mouse.up()

    @property
    def labels(self) -> playwright.Locator:
        return self.page.locator(".reading strong")

    @property
    def ink(self) -> float:
        """How light the one image is that the network saw, from 0 to 1."""
        self.wait_for_the_last_answer()
        return np.asarray(decoded(self.page.locator(".reading img").get_attribute("src"))[1]).mean() / 255

    def wait_for_the_last_answer(self) -> None:
        """The page answers while one draws: what stands there may be read from the first half of a stroke."""
        expect(self.page.locator("#readings")).to_have_attribute("aria-busy", "false")

    def frame(self) -> list[float]:
        """The one box on the stage: left, top, right, bottom, in pixels of the screen."""
        self.wait_for_the_last_answer()
        box = self.page.locator("#boxes i").bounding_box()
        return [box["x"], box["y"], box["x"] + box["width"], box["y"] + box["height"]]


@pytest.fixture
def visit(browser, url: str) -> Iterator[Visit]:
    """The page on a desktop's screen. It must ask for nothing elsewhere and have nothing to complain of."""
    visit = Visit(browser, url)
    yield visit
    visit.context.close()
    assert all(request.startswith((url, "blob:", "data:")) for request in visit.requests), visit.requests
    assert not visit.complaints


@pytest.mark.parametrize("digit", "01347")
def test_reads_what_is_drawn(visit: Visit, digit: str) -> None:
    page = visit.page
    expect(page.locator("#draw-hint")).to_have_text("Draw a digit, or several")
    visit.draw(digit)
    expect(visit.labels).to_have_text([digit])
    expect(page.locator("#bars .best span").first).to_have_text(digit)
    expect(page.locator("#bars li")).to_have_count(10)
    shares = [float(text.strip("> %")) for text in page.locator("#bars li :last-child").all_inner_texts()]
    assert 80 < sum(shares) < 100.5  # the rest: that it is none of them, or was found wrong
    expect(page.locator("#took")).to_have_text(re.compile(r"28×28 pixels, read in \d+\.\d ms"))
    expect(page.locator("#spoken")).to_have_text(re.compile(rf"^{digit}, >?\d"))
    expect(page.locator("#draw-hint")).to_be_hidden()
    seen = page.locator(".reading img")
    assert seen.evaluate("image => [image.naturalWidth, image.naturalHeight]") == [28, 28]
    assert seen.bounding_box()["width"] > 150
    expect(page.locator("#boxes b")).to_have_count(0)  # the one answer stands beside the sheet
    _, top, _, bottom = visit.frame()
    sheet = page.locator("#sheet").bounding_box()
    ys = [y for stroke in STROKES[digit] for _, y in stroke]
    pen = float(page.locator("#pen").input_value())
    assert (top - sheet["y"]) / sheet["height"] == pytest.approx(min(ys) - pen / 2, abs=0.05)
    assert (bottom - sheet["y"]) / sheet["height"] == pytest.approx(max(ys) + pen / 2, abs=0.05)


@pytest.mark.parametrize(("left", "top"), [(0, 0), (1.3, 0.8)])
def test_small_digit_in_a_corner_is_no_blob(visit: Visit, left: float, top: float) -> None:
    visit.draw("3", left=0.25)
    expect(visit.labels).to_have_text("3")
    large = visit.ink
    visit.page.keyboard.press("c")
    visit.draw("3", left=left, top=top, size=0.2)
    expect(visit.labels).to_have_text("3")
    assert large < visit.ink < 1.6 * large  # with a pen of one width: 3.1 times


def test_width_of_the_pen(visit: Visit) -> None:
    pen = visit.page.get_by_role("slider", name="Width of the pen")
    visit.draw("7")
    inks = []
    for key in ("Home", "End"):  # it changes what is drawn already
        pen.press(key)
        expect(pen).to_have_value({"Home": "0.02", "End": "0.14"}[key])
        inks.append(visit.ink)
    assert inks[1] > 1.4 * inks[0]
    expect(visit.labels).to_have_text("7")


def test_point_is_as_broad_as_the_line_of_its_digit(visit: Visit) -> None:
    page = visit.page
    sheet = page.locator("#sheet").bounding_box()
    visit.draw("1", left=0, size=0.8)
    page.mouse.click(sheet["x"] + 0.7 * sheet["height"], sheet["y"] + 0.75 * sheet["height"])
    page.wait_for_timeout(100)
    url = page.locator("#sheet").evaluate("sheet => sheet.toDataURL()")
    alpha = np.asarray(decoded(url)[1])[:, :, 3]
    middle = round(0.55 * sheet["height"])
    line, point = (alpha[:, :middle] > 127).any(axis=1), (alpha[:, middle:] > 127).any(axis=1)
    width = (alpha[len(alpha) // 2] > 127).sum()
    assert line.sum() > 5 * point.sum()
    assert abs(int(point.sum()) - int(width)) <= 3


def test_answers_while_the_stroke_is_drawn(visit: Visit) -> None:
    page, box = visit.page, visit.page.locator("#sheet").bounding_box()
    x, y, height = box["x"], box["y"], box["height"]
    page.mouse.move(x + 0.5 * height, y + 0.15 * height)
    page.mouse.down()
    page.mouse.move(x + 0.5 * height, y + 0.85 * height, steps=10)
    expect(visit.labels).to_have_text(["1"])  # the button is still down
    page.mouse.up()


def test_undo_and_clear(visit: Visit) -> None:
    page = visit.page
    asked = len([request for request in visit.requests if "predict" in request])
    assert asked == 0  # nothing to read on an empty sheet
    visit.draw("1")
    expect(visit.labels).to_have_text(["1"])
    page.mouse.click(*(page.locator("#sheet").bounding_box()[side] + 60 for side in "xy"))  # a dot
    expect(page.locator("#boxes i")).to_have_count(1)
    for undo in (lambda: page.locator("#undo").click(), lambda: page.keyboard.press("z")):
        undo()
    expect(visit.labels).to_have_count(0)
    expect(page.locator("#draw-hint")).to_be_visible()
    assert page.locator("#bars li :last-child").all_inner_texts() == [""] * 10
    clears = [
        lambda: page.locator("#clear").click(),
        *(lambda key=key: page.keyboard.press(key) for key in ("c", "Escape")),
    ]
    for clear in clears:
        visit.draw("7")
        expect(visit.labels).to_have_text(["7"])
        clear()
        expect(visit.labels).to_have_count(0)
        expect(page.locator("#draw-hint")).to_be_visible()
        empty = page.locator("#sheet").evaluate(
            "async sheet => { for (const _ of [1, 2]) await new Promise(requestAnimationFrame);"
            " const other = document.createElement('canvas');"
            " Object.assign(other, { width: sheet.width, height: sheet.height });"
            " return sheet.toDataURL() === other.toDataURL() }"
        )
        assert empty


def test_answer_that_comes_after_clear_is_dropped(visit: Visit) -> None:
    page = visit.page
    waiting = []
    page.route("**/predict*", lambda route: waiting.append(route))
    with page.expect_request("**/predict*"):
        visit.draw("1")
    page.wait_for_timeout(100)
    assert len(waiting) == 1  # one at a time
    page.keyboard.press("c")
    waiting[0].continue_()
    page.wait_for_timeout(300)
    assert len(waiting) == 1
    expect(visit.labels).to_have_count(0)


def test_several_digits(visit: Visit) -> None:
    page = visit.page
    for place, digit in enumerate("317"):
        visit.draw(digit, left=0.45 * place, size=0.6)
    expect(visit.labels).to_have_text(list("317"))
    expect(page.locator("#text")).to_have_text("317")
    expect(page.locator("#boxes b")).to_have_text(list("317"))
    expect(page.locator("#spoken")).to_have_text("317")
    cards = page.get_by_role("group", name="What was read").get_by_role("button")
    for index in (2, 0):
        cards.nth(index).press("Enter")
        expect(page.locator("#bars .best span").first).to_have_text("317"[index])
        assert [card.get_attribute("aria-pressed") for card in cards.all()] == [
            str(place == index).lower() for place in range(3)
        ]
        expect(page.locator("#boxes i").nth(index)).to_have_class("chosen")
    page.keyboard.press("z")
    expect(visit.labels).to_have_text(list("31"))


@contextmanager
def reading(browser, classifier: ImageClassifier, change: Callable[[Reading], Reading], **settings) -> Iterator[Visit]:
    """The page of a classifier whose readings are changed."""
    with serving(demo.application(Changed(classifier, change), "best.ckpt")) as client:
        visit = Visit(browser, f"http://127.0.0.1:{client.port}/", **settings)
        yield visit
        assert not visit.complaints
        visit.context.close()


def test_lines_separators_and_what_is_none_of_them(browser, classifier: ImageClassifier) -> None:
    def change(found: Reading) -> Reading:
        if len(found.marks) < 4:
            return found
        first, point, second, third = found.marks
        marks = [
            *(first, replace(point, label=".", separator=True, probabilities={}), replace(second, line=1)),
            replace(third, line=1, rejected=True, known=0.25),
        ]
        return Reading(marks, note="two lines")

    with reading(browser, classifier, change) as visit:
        page = visit.page
        for place, digit in enumerate("3174"):
            visit.draw(digit, left=0.35 * place, size=0.4)
        expect(page.locator("#text")).to_have_text("3.\n7?", use_inner_text=True)
        expect(visit.labels).to_have_text(["3", "7", "no digit"])
        expect(page.locator("#readings > div")).to_have_count(2)  # a row for each line
        expect(page.locator("#readings > div > span")).to_have_text(["."])
        expect(page.locator(".rejected > span")).to_have_text("75.0 %")
        expect(page.locator("#boxes b")).to_have_text(["3", "7", "?"])
        expect(page.locator("#note")).to_have_text("two lines")
        expect(page.locator("#spoken")).to_have_text("3.; 7?. two lines")
        page.locator(".reading.rejected").click()
        expect(page.locator("#bars .best")).to_have_count(0)  # its best guess is no answer


def test_no_digit_is_said_with_the_reason(browser, classifier: ImageClassifier) -> None:
    with reading(browser, classifier, rejected) as visit:
        page = visit.page
        visit.draw("4", left=0.2)
        expect(visit.labels).to_have_text(["no digit"])
        expect(page.locator(".reading > span")).to_have_text("97.0 %")
        expect(page.locator("#note")).to_have_text("looks like none of the classes")
        expect(page.locator("#bars .best")).to_have_count(0)
        expect(page.locator("#spoken")).to_have_text("no digit, 97.0 %. looks like none of the classes")
        visit.draw("1", left=0.9)
        expect(page.locator("#text")).to_have_text("no digit")
        expect(page.locator("#boxes .rejected")).to_have_count(2)


def test_nothing_found_is_said_with_the_reason(browser, classifier: ImageClassifier) -> None:
    with reading(browser, classifier, lambda _: Reading([], reason="blank")) as visit:
        visit.draw("4")
        expect(visit.page.locator("#message")).to_have_text("no digit: blank")
        expect(visit.labels).to_have_count(0)
        expect(visit.page.locator("#spoken")).to_have_text("no digit: blank")


@pytest.fixture
def file(tmp_path: Path) -> Callable[..., Path]:
    """Writes a file to upload."""

    def write(content: bytes, name: str = "digit.png") -> Path:
        (tmp_path / name).write_bytes(content)
        return tmp_path / name

    return write


def test_upload(visit: Visit, five: np.ndarray, file: Callable[..., Path]) -> None:
    page = visit.page
    page.get_by_role("tab", name="Upload").click()
    with page.expect_file_chooser() as chooser:
        page.locator("#choose").click()
    chooser.value.set_files(file(encoded(paper([five]))))
    expect(visit.labels).to_have_text(["5"])
    expect(page.locator("#preview")).to_be_visible()
    expect(page.locator("#boxes b")).to_have_text(["5"])
    assert_box_is_on_the_ink(visit, paper([five]))
    page.locator("#clear").click()
    expect(visit.labels).to_have_count(0)
    expect(page.locator("#upload .hint")).to_be_visible()
    # What the browser cannot show can still be read.
    page.locator("#file").set_input_files(file(encoded(paper([five]), "TIFF"), "digit.tif"))
    expect(visit.labels).to_have_text(["5"])
    expect(page.locator("#preview")).to_be_visible()  # as the server sends it back
    assert_box_is_on_the_ink(visit, paper([five]))


def assert_box_is_on_the_ink(visit: Visit, picture: Image.Image) -> None:
    """Of a picture that lies in the middle of the stage, as large as it fits."""
    stage = visit.page.locator("#stage").bounding_box()
    scale = min(stage["width"] / picture.width, stage["height"] / picture.height)
    rows, columns = np.nonzero(np.asarray(picture.convert("L")) < 100)
    middle = [stage["x"] + stage["width"] / 2, stage["y"] + stage["height"] / 2] * 2
    ends = [columns.min(), rows.min(), columns.max(), rows.max()]
    sizes = picture.size * 2
    expected = [at + (end - size / 2) * scale for at, end, size in zip(middle, ends, sizes, strict=True)]
    assert visit.frame() == pytest.approx(expected, abs=20)  # pixels; the box stands 6 off


def photo(number: int, shape: tuple[int, int]) -> Image.Image:
    """A digit on grey paper in uneven light, taken with a noisy camera."""
    sheet = page((number, 200, 300, 180), size=shape, paper=0.8)
    light = np.linspace(1, 0.7, shape[0])[None, :] * np.linspace(1, 0.85, shape[1])[:, None]
    noise = np.random.default_rng(0).normal(scale=0.01, size=sheet.shape)
    return picture(sheet * light + noise).convert("RGB")


@pytest.mark.parametrize("turned", [False, True])
def test_photo(visit: Visit, file: Callable[..., Path], turned: bool) -> None:
    taken = photo(2600, (900, 600))
    stored, exif = taken, Image.Exif()
    if turned:  # a telephone held upright: the file says how to turn it
        stored = taken.transpose(Image.Transpose.ROTATE_90)
        exif[0x0112] = 6
    content = io.BytesIO()
    stored.save(content, "JPEG", quality=85, exif=exif)
    visit.page.get_by_role("tab", name="Upload").click()
    visit.page.locator("#file").set_input_files(file(content.getvalue(), "photo.jpg"))
    expect(visit.labels).to_have_text(["5"])
    expect(visit.page.locator("#boxes b")).to_have_text(["5"])
    assert_box_is_on_the_ink(visit, taken)


@pytest.mark.parametrize("way", ["drop", "paste"])
def test_dropped_and_pasted_pictures(visit: Visit, five: np.ndarray, way: str) -> None:
    page = visit.page
    transfer = page.evaluate_handle(
        "bytes => { const data = new DataTransfer();"
        " data.items.add(new File([new Uint8Array(bytes)], 'digit.png', { type: 'image/png' })); return data }",
        list(encoded(paper([five]))),
    )
    if way == "drop":
        page.locator("#stage").dispatch_event("drop", {"dataTransfer": transfer})
    else:
        page.evaluate("data => dispatchEvent(new ClipboardEvent('paste', { clipboardData: data }))", transfer)
    expect(page.get_by_role("tab", name="Upload")).to_have_attribute("aria-selected", "true")
    expect(visit.labels).to_have_text(["5"])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"hello", "picture"),
        (b"", "picture"),
        (bytes(demo.MOST_BYTES + 1), "digit.png has more than 20 MB."),
        (encoded(Image.new("L", (200, 200), 255)), "no digit"),
    ],
    ids=["text", "empty", "large", "blank"],
)
def test_broken_picture_gets_a_message(
    visit: Visit, five: np.ndarray, file: Callable[..., Path], content: bytes, message: str
) -> None:
    page = visit.page
    page.get_by_role("tab", name="Upload").click()
    page.locator("#file").set_input_files(file(content))
    expect(page.locator("#message")).to_contain_text(message)
    page.locator("#file").set_input_files(file(encoded(paper([five]))))
    expect(visit.labels).to_have_text(["5"])
    expect(page.locator("#message")).to_be_hidden()
    refused = "Failed to load resource: the server responded with a status of 422 (Unprocessable Entity)"
    assert set(visit.complaints) <= {refused}  # Chromium's own
    visit.complaints.clear()


def test_camera(browser, url: str, held_up: Image.Image) -> None:
    visit = Visit(browser, url, permissions=["camera"])
    page = visit.page
    page.get_by_role("tab", name="Camera").click()
    page.get_by_role("button", name="Start the camera").click()
    expect(visit.labels).to_have_text(["5"])
    expect(page.locator("#boxes b")).to_have_text(["5"])
    expect(page.locator("#spoken")).to_have_text("5")  # once, not with each frame's probability
    assert_box_is_on_the_ink(visit, held_up)
    frames = len(visit.requests)
    page.wait_for_timeout(600)
    assert len(visit.requests) > frames  # it continues by itself
    page.get_by_role("button", name="Stop the camera").click()
    expect(visit.labels).to_have_count(0)
    page.wait_for_timeout(300)
    frames = len(visit.requests)
    page.get_by_role("button", name="Start the camera").click()
    expect(visit.labels).to_have_text(["5"])
    page.get_by_role("tab", name="Draw").click()  # leaving stops it too
    expect(visit.labels).to_have_count(0)
    assert page.evaluate("document.querySelector('video').srcObject") is None
    assert not visit.complaints
    visit.context.close()


def test_refused_and_missing_camera_get_a_message(browser, url: str) -> None:
    visit = Visit(browser, url)
    page = visit.page
    page.get_by_role("tab", name="Camera").click()
    fail = (
        "name => { navigator.mediaDevices.getUserMedia = async () => { throw new DOMException('none found', name) } }"
    )
    for name, message in (("NotAllowedError", "may not use the camera"), ("NotFoundError", "none found")):
        page.evaluate(fail, name)
        page.locator("#start").click()
        expect(page.locator("#message")).to_contain_text(message)
    page.evaluate("Object.defineProperty(navigator, 'mediaDevices', { value: undefined })")  # as over plain http
    page.locator("#start").click()
    expect(page.locator("#message")).to_contain_text("https")
    visit.context.close()


def test_server_that_is_gone_and_comes_back(browser, url: str) -> None:
    visit = Visit(browser, url)
    page = visit.page
    visit.context.set_offline(True)
    visit.draw("1")
    expect(page.locator("#gone")).to_be_visible()
    visit.context.set_offline(False)
    expect(visit.labels).to_have_text(["1"])  # without anything else being drawn
    expect(page.locator("#gone")).to_be_hidden()
    visit.context.close()


def test_by_keyboard(visit: Visit, five: np.ndarray) -> None:
    page = visit.page
    page.keyboard.press("Tab")
    expect(page.get_by_role("tab", name="Draw")).to_be_focused()
    page.keyboard.press("ArrowRight")
    expect(page.get_by_role("tab", name="Upload")).to_be_focused()
    expect(page.locator("#upload")).to_be_visible()
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowLeft")
    expect(page.get_by_role("tab", name="Camera")).to_be_focused()
    expect(page.locator("#start")).to_be_visible()
    page.keyboard.press("Tab")
    expect(page.locator("#start")).to_be_focused()
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("ArrowRight")
    expect(page.get_by_role("tab", name="Draw")).to_be_focused()
    page.keyboard.press("Tab")
    pen = page.get_by_role("slider")
    expect(pen).to_be_focused()
    page.keyboard.press("ArrowRight")
    expect(pen).to_have_value("0.065")
    assert pen.evaluate("one => getComputedStyle(one).outlineStyle") == "solid"


def test_why_is_answered_beside_the_answer_once_asked(visit: Visit) -> None:
    page = visit.page
    expect(page.locator("#ask")).to_be_hidden()
    visit.draw("7")
    expect(visit.labels).to_have_text(["7"])
    visit.wait_for_the_last_answer()
    assert not [url for url in visit.requests if "explain" in url]  # nothing is computed unasked
    page.get_by_role("button", name="Why 7?").click()
    expect(page.locator("#why figcaption")).to_have_text("Red speaks for 7, blue against it.")
    assert np.asarray(decoded(page.locator("#why img").get_attribute("src"))[1]).shape == (28, 28, 3)
    expect(page.locator("#ask")).to_be_hidden()
    visit.draw("1", left=0.6, size=0.8)  # another answer: what is shown of the first would be wrong
    expect(visit.labels).to_have_text(["7", "1"])
    visit.wait_for_the_last_answer()
    expect(page.locator("#why")).to_be_hidden()
    page.locator(".reading").nth(1).click()
    page.get_by_role("button", name="Why 1?").click()
    expect(page.locator("#why figcaption")).to_have_text("Red speaks for 1, blue against it.")
    page.locator(".reading").nth(0).click()
    expect(page.locator("#why")).to_be_hidden()
    expect(page.get_by_role("button", name="Why 7?")).to_be_visible()
    page.get_by_role("button", name="Clear").click()
    expect(page.locator("#ask")).to_be_hidden()


def test_why_is_not_offered_without_gradients(browser, classifier: ImageClassifier) -> None:
    without = ImageClassifier(classifier.logits, classifier.facts)
    with serving(demo.application(without, "best.onnx")) as client:
        visit = Visit(browser, f"http://127.0.0.1:{client.port}/")
        visit.draw("7")
        expect(visit.labels).to_have_text(["7"])
        visit.wait_for_the_last_answer()
        expect(visit.page.locator("#ask")).to_be_hidden()
        visit.context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_by_finger_on_a_telephone(browser, url: str, scheme: str) -> None:
    phone = {"viewport": {"width": 390, "height": 844}, "is_mobile": True, "has_touch": True, "color_scheme": scheme}
    visit = Visit(browser, url, **phone)
    page = visit.page
    box = page.locator("#sheet").bounding_box()
    assert box["width"] > 350
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    finger = visit.context.new_cdp_session(page)

    def touch(kind: str, y: float) -> None:
        points = [] if kind == "touchEnd" else [{"x": box["x"] + box["width"] / 2, "y": box["y"] + y * box["height"]}]
        finger.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

    touch("touchStart", 0.15)
    for step in range(1, 11):
        touch("touchMove", 0.15 + 0.07 * step)
    touch("touchEnd", 0)
    expect(visit.labels).to_have_text(["1"])
    assert page.evaluate("scrollY") == 0  # the finger draws, it does not scroll
    for text in ("#model", "#took", "#bars li", ".reading strong", "h1"):
        assert contrast(page, text) >= 4.5
    assert not visit.complaints
    visit.context.close()


def inside(page: Page, what: str) -> bool:
    """Whether all of an element is on the screen without scrolling."""
    box, screen = page.locator(what).bounding_box(), page.viewport_size
    return (
        min(box["x"], box["y"]) >= 0
        and box["x"] + box["width"] <= screen["width"]
        and box["y"] + box["height"] <= screen["height"]
    )


def test_telephone_is_turned(browser, url: str) -> None:
    visit = Visit(browser, url, viewport={"width": 844, "height": 390}, is_mobile=True, has_touch=True)
    page = visit.page
    visit.draw("7", left=0.7, size=0.9)
    expect(visit.labels).to_have_text(["7"])
    for what in ("#stage", ".reading", "#clear", "[role=tablist]"):
        assert inside(page, what)
    answer, stage = page.locator(".reading").bounding_box(), page.locator("#stage").bounding_box()
    assert answer["x"] > stage["x"] + stage["width"]  # beside each other
    assert stage["height"] > 0.65 * 390
    page.set_viewport_size({"width": 390, "height": 844})
    page.wait_for_timeout(300)
    expect(visit.labels).to_have_text(["7"])  # all of it is on the narrower sheet
    for what in ("#stage", ".reading", "#clear", "[role=tablist]", "#boxes i"):
        assert inside(page, what)
    assert page.locator("#stage").bounding_box()["width"] > 350
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    visit.context.close()


@pytest.mark.parametrize("size", [(1366, 768), (1920, 1080), (2560, 1440)])
def test_width_of_the_screen_is_used(browser, url: str, size: tuple[int, int]) -> None:
    visit = Visit(browser, url, viewport=dict(zip(("width", "height"), size, strict=True)))
    page = visit.page
    visit.draw("4")
    expect(visit.labels).to_have_text(["4"])
    stage, bars = page.locator("#stage").bounding_box(), page.locator("#bars").bounding_box()
    assert stage["height"] > 0.55 * size[1]
    assert bars["x"] + bars["width"] - stage["x"] > 0.85 * size[0]
    assert page.locator(".reading strong").bounding_box()["height"] > 0.14 * size[1]
    for what in ("#stage", "#answer", "footer"):
        assert inside(page, what)
    visit.context.close()


def contrast(page: Page, text: str) -> float:
    """Of a text to the page's ground, as WCAG 2 has it."""
    colours = page.evaluate(
        "text => [document.querySelector(text), document.body].map(getComputedStyle)"
        ".map((style, i) => i ? style.backgroundColor : style.color)",
        text,
    )
    luminances = []
    for colour in colours:
        channels = np.array([int(value) for value in re.findall(r"\d+", colour)[:3]]) / 255
        linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
        luminances.append(float(linear @ [0.2126, 0.7152, 0.0722]))
    return (max(luminances) + 0.05) / (min(luminances) + 0.05)


@pytest.mark.parametrize(
    ("names", "hint"),
    [
        (["T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"],
         "Draw a picture"),
        (list("0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabdefghnqrt"), "Draw a character, or several"),
    ],
    ids=["long names", "many"],
)  # fmt: skip
@pytest.mark.parametrize("width", [1120, 390])
def test_other_classes(browser, classifier: ImageClassifier, names: list[str], hint: str, width: int) -> None:
    facts = ModelFacts("emnist", names, 28, 1, [0.1307], [0.3081], 24 / 28, "box", True)
    rng = np.random.default_rng(0)
    other = ImageClassifier(lambda images: rng.normal(size=(len(images), len(names))), facts)
    with serving(demo.application(other, "best.onnx")) as client:
        visit = Visit(browser, f"http://127.0.0.1:{client.port}/", viewport={"width": width, "height": 800})
        page = visit.page
        expect(page.locator("#draw-hint")).to_have_text(hint)
        visit.draw("3")
        expect(page.locator(".reading strong").first).to_be_visible()
        assert page.locator("#bars li :first-child").all_inner_texts() == names
        assert page.evaluate("document.documentElement.scrollWidth") == width
        fits = "spans => spans.map(span => span.scrollWidth <= span.clientWidth)"
        assert all(page.locator("#bars li :first-child").evaluate_all(fits))  # none is cut off
        visit.context.close()
