"""report.html: its figures against references, what comes from outside in it, and the page in a real browser."""

import base64
import io
import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from html import unescape
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import Command
from omegaconf import OmegaConf
from PIL import Image
from sklearn.metrics import brier_score_loss, confusion_matrix

from digits import html_report
from digits.analysis import misclassification
from digits.calibration import figures_of
from digits.data import DigitsDataModule
from digits.html_report import Answered, gather
from digits.html_report import html_report as made

EVIL = '<script>document.title="broken"</script>'
DIGITS = list("0123456789")


def answers(target: np.ndarray, classes: int, right: float, seed: int = 0) -> np.ndarray:
    """Probabilities (N, classes) of which about that share is right."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(len(target), classes))
    logits[np.arange(len(target)), np.where(rng.random(len(target)) < right, target, (target + 1) % classes)] += 5
    return torch.from_numpy(logits).softmax(dim=1).numpy()


def run_of(
    folder: Path, images: torch.Tensor, target: np.ndarray, stated: dict[str, np.ndarray], names: Sequence[str]
) -> tuple[SimpleNamespace, Answered]:
    """A run whose record has what a test leaves, and its answers."""
    last = [*stated.values()][-1]
    confusion = confusion_matrix(target, last.argmax(axis=1), labels=range(len(names)))
    facts = {
        "confusion_matrix": confusion.tolist(),
        "misclassification": asdict(misclassification(confusion, names)),
        "confidence": {
            name: figures_of(torch.from_numpy(one), torch.from_numpy(target)) for name, one in stated.items()
        },
        "temperature": 1.5 if len(stated) > 1 else None,
        "test/acc": float(np.mean(last.argmax(axis=1) == target)),
        "split_sizes": {"train": 4000, "val": 500, "test": len(target)},
        "overrides": [f"name={EVIL}"],
    }
    run = SimpleNamespace(facts=facts, folder=folder, dataset="digits", config=OmegaConf.create({"trainer": {}}))
    return run, Answered(images, target, stated, names, "digits", "CNN")


@pytest.fixture
def digits(sample: DigitsDataModule, tmp_path: Path) -> tuple[SimpleNamespace, Answered]:
    """500 real digits, 1 in 10 of them misread as the next one."""
    test = sample.splits.test
    target = test.target.numpy()
    calibrated = answers(target, 10, 0.9)
    trained = torch.from_numpy(calibrated).log().mul(2).softmax(dim=1).numpy()
    return run_of(tmp_path, test.images, target, {"as trained": trained, "calibrated": calibrated}, DIGITS)


def rows(html: str, table: str) -> list[list[str]]:
    """The text of a table's cells."""
    [content] = re.findall(rf"<table {table}.*?>(.*?)</table>", html, re.DOTALL)
    cells = [re.findall(r"<t[hd].*?>(.*?)</t[hd]>", row, re.DOTALL) for row in re.findall(r"<tr>.*?</tr>", content)]
    return [[unescape(re.sub("<.*?>", "", cell)) for cell in row] for row in cells]


def test_the_matrix_is_scikit_learns(digits: tuple[SimpleNamespace, Answered]) -> None:
    html = made(*digits)
    expected = confusion_matrix(digits[1].target, digits[1].stated["calibrated"].argmax(axis=1))
    head, *body = rows(html, 'id="matrix"')
    assert head == ["", *DIGITS]
    assert [row[0] for row in body] == DIGITS
    assert [[int(count or 0) for count in row[1:]] for row in body] == expected.tolist()


def test_calibration_before_and_after(digits: tuple[SimpleNamespace, Answered]) -> None:
    html = made(*digits)
    [table] = [part for part in html.split("<table") if ">Brier score<" in part]
    target = np.eye(10)[digits[1].target]
    for one in digits[1].stated.values():
        brier = sum(brier_score_loss(target[:, i], one[:, i]) for i in range(10))
        assert f"<td>{brier:.4f}</td>" in table


def test_a_cell_shows_its_images(digits: tuple[SimpleNamespace, Answered]) -> None:
    """Those of the confusion, the most confident first, pixel for pixel; of the right ones the least confident."""
    _, tested = digits
    cells = gather(*digits)["matrix"]["cells"]
    pred, confidence = tested.probabilities.argmax(axis=1), tested.probabilities.max(axis=1)
    for (target, read_as), images in cells.items():
        here = np.flatnonzero((tested.target == target) & (pred == read_as))
        order = here[np.argsort(confidence[here] * (1 if target == read_as else -1))]
        assert [image["index"] for image in images] == order[: 8 if target == read_as else 24].tolist()
        pixels = Image.open(io.BytesIO(base64.b64decode(images[0]["src"].partition(",")[2])))
        assert np.array_equal(np.asarray(pixels), tested.images[images[0]["index"], 0])
    assert {key for key in cells if key[0] != key[1]} == {
        (int(t), int(p)) for t, p in zip(tested.target, pred, strict=True) if t != p
    }


def test_it_says_how_many_are_not_shown(sample: DigitsDataModule, tmp_path: Path) -> None:
    test = sample.splits.test
    target = np.zeros(500, int)
    html = made(*run_of(tmp_path, test.images, target, {"as trained": answers(target, 2, 0.5)}, ["a", "b"]))
    wrong = int((answers(target, 2, 0.5).argmax(axis=1) == 1).sum())
    assert f"first 24 of {wrong}" in html
    assert f"the least sure 8 of {500 - wrong}" in html
    assert f"The 120 most confident of {wrong}; all of them are in misclassified.csv." in html


def test_no_mistakes(sample: DigitsDataModule, tmp_path: Path) -> None:
    test = sample.splits.test
    html = made(
        *run_of(tmp_path, test.images, test.target.numpy(), {"as trained": np.eye(10)[test.target.numpy()]}, DIGITS)
    )
    assert "<p>None.</p>" in html
    assert "<strong>0</strong> of 500 are misread" in html


def test_hundred_classes_in_colour_stay_small(tmp_path: Path) -> None:
    """Noise, which no PNG makes smaller, and names that would break the page."""
    rng = np.random.default_rng(0)
    images = torch.from_numpy(rng.integers(0, 256, (2000, 3, 96, 96)).astype(np.uint8))
    names, target = [f"{EVIL} & long name {i}" for i in range(100)], rng.integers(0, 100, 2000)
    html = made(*run_of(tmp_path, images, target, {"as trained": answers(target, 100, 0.3)}, names))
    assert len(html.encode()) < 2e6
    assert EVIL not in html
    assert html.count("<script") == 1
    more = [f"{i}" for i in range(101)]
    html = made(*run_of(tmp_path, images, target, {"as trained": answers(target, 101, 0.3)}, more))
    assert "More than 100 classes" in html


def test_curves_leave_out_what_is_missing(digits: tuple[SimpleNamespace, Answered]) -> None:
    run, _ = digits
    assert "by epoch" not in made(*digits)
    assert not gather(*digits)["charts"]
    (run.folder / "metrics.csv").write_text(
        "epoch,train/acc,train/loss,val/acc,val/loss\n1,0.5,nan,,\n2,0.75,0.5,0.7,0.6\n3,1.0,0.25,0.8,0.7\n"
    )
    loss, accuracy = gather(*digits)["charts"]
    assert [text for *_, text in loss["lines"]["training"]] == ["epoch 2, training: 0.5", "epoch 3, training: 0.25"]
    left, top, right, bottom = html_report.WIDE
    shares = np.array([0.5, 0.75, 1.0])
    ys = [y for _, y, _ in accuracy["lines"]["training"]]
    assert ys[-1] == top  # 100 % is the most there is
    assert np.diff(ys, n=2) == pytest.approx(0, abs=0.11)
    assert np.corrcoef(shares, ys)[0, 1] == pytest.approx(-1)
    assert all(left <= x <= right and top <= y <= bottom for x, y, _ in accuracy["lines"]["validation"])


@pytest.mark.parametrize(
    ("share", "text"), [(1, "100.0%"), (0.99999, ">99.9%"), (0.5, "50.0%"), (0.0001, "<0.1%"), (0, "0.0%")]
)
def test_nothing_is_rounded_to_all_or_nothing(share: float, text: str) -> None:
    assert html_report._percent(share) == text


def test_training_and_evaluation_leave_one(trained: Path, command: Command) -> None:
    html = (trained / "report.html").read_text()
    assert "<h1>CNN on mnist5k</h1>" in html
    assert "<polyline" in html
    outcome = command("eval", f"ckpt_path={trained}", "trainer=cpu", "figures=true")
    evaluated = (outcome.folder / "report.html").read_text()
    assert rows(evaluated, 'id="matrix"') == rows(html, 'id="matrix"')
    outcome = command("eval", f"ckpt_path={trained}", "trainer=cpu", "figures=false")
    assert not (outcome.folder / "report.html").exists()


# In a browser

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.fixture(scope="module")
def browser() -> Iterator:
    playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed: make setup")
    if CHROMIUM is None:
        pytest.skip("no Chromium here: apt-get install chromium")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def report(digits: tuple[SimpleNamespace, Answered]) -> Path:
    run, tested = digits
    names = [*DIGITS[:8], EVIL, 'nine & <b>"more"</b>']
    run, tested = run_of(run.folder, tested.images, tested.target, dict(tested.stated), names)
    (run.folder / "metrics.csv").write_text("epoch,train/loss,val/loss\n1,0.5,0.6\n2,0.3,0.5\n")
    (run.folder / "report.html").write_text(made(run, tested))
    return run.folder / "report.html"


def visit(browser, report: Path, **settings: object):
    """The page opened from the disk, and a list to which is added whatever it asks for or complains of."""
    page = browser.new_context(**{"viewport": {"width": 1280, "height": 800}} | settings).new_page()
    said: list[str] = []
    page.on("request", lambda one: None if one.url.startswith(("data:", "file:")) else said.append(one.url))
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.goto(report.as_uri())
    return page, said


def test_a_click_shows_the_images_of_a_cell(browser, report: Path) -> None:
    page, said = visit(browser, report)
    assert page.title() == "CNN on digits: report"  # and not "broken"
    shown = page.locator("#cells article:visible")
    assert shown.count() == 1
    page.locator('#matrix a[href="#c3-4"]').click()
    assert shown.locator("h3").inner_text() == "3 read as 4"
    assert shown.locator("img").count() == int(page.locator('#matrix a[href="#c3-4"]').inner_text())
    assert all(page.locator("img").evaluate_all("all => all.map(one => one.naturalWidth === 28)"))
    page.locator('#matrix a[href="#c8-9"]').click()
    assert shown.locator("h3").inner_text() == f'{EVIL} read as nine & <b>"more"</b>'
    assert not said
    page.context.close()


def test_by_keyboard(browser, report: Path) -> None:
    page, _ = visit(browser, report)
    stops = page.locator("#matrix a[tabindex='0']")
    assert stops.count() == 1
    page.locator('#matrix a[href="#c3-3"]').click()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    assert page.locator("#cells article:visible h3").inner_text() == "3 read as 4"
    page.keyboard.press("ArrowDown")
    assert page.evaluate("document.activeElement.hash") == "#c4-4"
    for _ in range(20):  # it stays in the matrix
        page.keyboard.press("ArrowUp")
    assert page.evaluate("document.activeElement.closest('#matrix') !== null")
    rate = page.get_by_role("button", name="missed")
    rate.focus()
    page.keyboard.press("Enter")
    missed = [int(text) for text in page.locator("#classes tbody td:nth-child(3)").all_inner_texts()]
    assert missed == sorted(missed, reverse=True)
    page.context.close()


def test_without_javascript_all_is_there(browser, report: Path) -> None:
    page, _ = visit(browser, report, java_script_enabled=False)
    cells = page.locator("#cells article")
    assert cells.count() == page.locator("#cells article:visible").count() == page.locator("#matrix a").count()
    for table in ("#matrix", "#classes table", "#facts table >> nth=0"):
        assert page.locator(table).is_visible()
    page.context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_on_a_telephone(browser, report: Path, scheme: str) -> None:
    phone = {"viewport": {"width": 390, "height": 844}, "is_mobile": True, "has_touch": True, "color_scheme": scheme}
    page, said = visit(browser, report, **phone)
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    page.locator('#matrix a[href="#c3-4"]').tap()
    assert page.locator("#cells article:visible h3").inner_text() == "3 read as 4"
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, re.findall(r"\d+", ground)[:3])) < 150) == (scheme == "dark")
    assert not said
    page.context.close()
