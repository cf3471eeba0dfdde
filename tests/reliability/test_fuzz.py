"""Mutated command lines and files: an answer or one line that says what is wrong, never a traceback, never a hang.

DIGITS_FUZZ sets the number of examples of each, DIGITS_FUZZ_SEED the random numbers; both are printed.
"""

import gzip
import io
import os
import pickle
import shutil
import signal
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

import numpy as np
import pytest
import torch
from conftest import RELIABILITY, SEED, Command
from fakes import digit
from hydra import compose, initialize_config_dir
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from omegaconf import DictConfig, OmegaConf
from PIL import Image

from digits import load_classifier
from digits.checkpoints import Checkpoint
from digits.command import CONFIGS
from digits.compare import compare
from digits.data import DigitsDataModule
from digits.data.datasets import Kmnist
from digits.data.files import idx_problem
from digits.data.folder import ImageFolder
from digits.errors import UserError
from digits.pictures.reader import ImageClassifier
from digits.runs.run import Run

pytestmark = pytest.mark.slow
EXAMPLES = int(os.environ.get("DIGITS_FUZZ", "300"))
HANGS_AFTER_SECONDS = 120
FUZZ = settings(
    max_examples=EXAMPLES,
    deadline=None,
    database=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)
QUICK = ["data=mnist5k", "model=fast", "trainer=cpu", "trainer.fast_dev_run=1", "logger=[]", "figures=false"]
# Each names, sizes or counts something; none is so large that it is a wish for more memory than there is.
VALUES = [
    *(
        "",
        "null",
        "true",
        "false",
        "0",
        "1",
        "-1",
        "2",
        "3",
        "0.5",
        "-0.5",
        "nan",
        "inf",
        "-inf",
        "1e30",
        "1e-30",
        "abc",
    ),
    *(
        "[]",
        "[1]",
        "[0]",
        "[-1]",
        "[a,b]",
        "[null]",
        "[[1]]",
        "{}",
        "{a: 1}",
        "{_target_: os.system}",
        "'",
        '"',
        "'a b'",
    ),
    *(
        "a b",
        "a=b",
        "a,b",
        "${seed}",
        "${nothing}",
        "${oc.env:NOTHING}",
        "${",
        "$",
        "%",
        "\\",
        "ü",
        "🙂",
        "\t",
        "../..",
        "/",
    ),
    *(
        "os.system",
        "builtins.eval",
        "subprocess.run",
        "torch.nn.Nothing",
        "digits.networks.CNN",
        "val/acc",
        "cpu",
        "none",
    ),
]
# What starts other processes, waits, or is about where the results go.
LEFT_ALONE = (
    *("log_dir", "trainer.devices", "trainer.num_nodes", "trainer.strategy", "data.num_workers", "data.root"),
    *("logger.tensorboard.save_dir", "callbacks.best_checkpoint.dirpath"),
)


class Hang(BaseException):
    """No answer in time."""


@contextmanager
def watched() -> Iterator[None]:
    def hang(*_: object) -> None:
        raise Hang

    before = signal.signal(signal.SIGALRM, hang)
    signal.alarm(HANGS_AFTER_SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


class Tally:
    """How each example ended; those that ended badly are kept, and all are counted."""

    def __init__(self, what: str, record: Callable[[str, object], None]) -> None:
        self.what, self.record = what, record
        self.ends: Counter[str] = Counter()
        self.bad: list[tuple[str, object]] = []

    def __enter__(self) -> Self:
        return self

    def add(self, end: str, example: object, is_bad: bool = False) -> None:
        self.ends[end] += 1
        if is_bad:
            self.bad.append((end, example))

    def __exit__(self, kind: type | None, *_: object) -> None:
        total = sum(self.ends.values())
        print(f"\nseed {SEED}: {total} {self.what}: {dict(self.ends)}")
        for end in ("traceback", "hang"):
            bad = sum(found == end for found, _ in self.bad)
            self.record(f"{RELIABILITY}{self.what} that ended with a {end}", (bad, total))
        if kind is None:
            assert not self.bad


def keys_of(config: DictConfig, prefix: str = "") -> list[str]:
    keys = []
    for key, value in config.items_ex(resolve=False):
        keys.append(prefix + key)
        if OmegaConf.is_dict(value) and value is not None:
            keys += keys_of(value, f"{prefix}{key}.")
    return keys


with initialize_config_dir(str(CONFIGS), version_base="1.3"):
    KEYS = [key for key in keys_of(compose("train")) if not key.startswith(LEFT_ALONE)]
GROUPS = [path.name for path in CONFIGS.iterdir() if path.is_dir() and path.name not in ("hydra", "hparams_search")]


@st.composite
def word(draw: st.DrawFn) -> str:
    key = draw(st.sampled_from(KEYS) | st.sampled_from(GROUPS))
    value = draw(st.sampled_from(VALUES))
    whole = draw(st.sampled_from(["", "", "", "+", "~", "++"])) + f"{key}={value}"
    match draw(st.integers(0, 5)):
        case 0:  # a letter more, less or another
            place = draw(st.integers(0, len(whole)))
            whole = (
                whole[:place] + draw(st.sampled_from([*"ae.=,[]{}'\"$@ "])) + whole[place + draw(st.integers(0, 1)) :]
            )
        case 1:
            whole = whole[: draw(st.integers(0, len(whole)))]
    return whole


def test_command_lines(command: Command, record_property: Callable[[str, object], None]) -> None:
    with Tally("mutated command lines", record_property) as tally:

        @FUZZ
        @seed(SEED)
        @given(st.lists(word(), min_size=1, max_size=2))
        def one(words: list[str]) -> None:
            if any(each.startswith(("-", "hydra")) or each.lstrip("+~").startswith(LEFT_ALONE) for each in words):
                return
            try:
                with watched():
                    outcome = command("train", *QUICK, *words)
            except Hang:
                tally.add("hang", words, is_bad=True)
                return
            one_line = outcome.err.startswith("error: ") and outcome.err.count("\n") == 1
            if "Traceback" in outcome.err or outcome.code not in (0, 1) or (outcome.code == 1 and not one_line):
                tally.add("traceback", (words, outcome), is_bad=True)
            else:
                tally.add("trained" if outcome.code == 0 else "one line", words)

        one()


@st.composite
def damage(draw: st.DrawFn, content: bytes) -> bytes:
    """Some bytes changed, taken out or put in; or the end cut off."""
    mutated = bytearray(content)
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, max(0, len(mutated) - 1)) | st.integers(0, min(len(mutated), 512)))
        match draw(st.integers(0, 3)):
            case 0:
                mutated[place : place + 1] = draw(st.binary(min_size=1, max_size=1))
            case 1:
                del mutated[place : place + draw(st.integers(1, 64))]
            case 2:
                mutated[place:place] = draw(st.binary(max_size=16))
            case 3:
                del mutated[place:]
    return bytes(mutated)


def answers_or_refuses(what: str, content: bytes, use: Callable[[bytes], object], record: Callable) -> None:
    """Uses each damaged file, which either works or is refused by a UserError of one line."""
    with Tally(what, record) as tally:

        @FUZZ
        @seed(SEED)
        @given(st.data())
        def one(data: st.DataObject) -> None:
            damaged = data.draw(damage(content))
            try:
                with watched():
                    use(damaged)
            except UserError as error:
                tally.add("refused", damaged) if "\n" not in str(error) else tally.add("traceback", error, is_bad=True)
            except Hang:
                tally.add("hang", damaged, is_bad=True)
            except Exception as error:
                tally.add("traceback", error, is_bad=True)
            else:
                tally.add("read", damaged)

        one()


def test_checkpoints(trained: Path, tmp_path: Path, record_property: Callable) -> None:
    path = tmp_path / "damaged.ckpt"

    def use(content: bytes) -> None:
        path.write_bytes(content)
        Checkpoint.open(path).network()

    content = (trained / "checkpoints" / "best.ckpt").read_bytes()
    answers_or_refuses("mutated checkpoints", content, use, record_property)


def sealed(content: bytes, damaged: bytes) -> bytes:
    """The archive with other bytes in the place of its pickle, and right checksums."""
    with zipfile.ZipFile(io.BytesIO(content)) as old, io.BytesIO() as file:
        with zipfile.ZipFile(file, "w") as new:
            for name in old.namelist():
                new.writestr(name, damaged if name.endswith("/data.pkl") else old.read(name))
        return file.getvalue()


def test_checkpoints_with_right_checksums(trained: Path, tmp_path: Path, record_property: Callable) -> None:
    """As by somebody who means it: what is in the archive is wrong, and the archive is not."""
    path = tmp_path / "damaged.ckpt"
    content = (trained / "checkpoints" / "best.ckpt").read_bytes()
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        [pickled] = [archive.read(name) for name in archive.namelist() if name.endswith("/data.pkl")]

    def use(damaged: bytes) -> None:
        path.write_bytes(sealed(content, damaged))
        classifier = load_classifier(path)
        classifier.probabilities(np.zeros((1, 1, 28, 28), np.uint8))

    answers_or_refuses("mutated pickles in checkpoints with right checksums", pickled, use, record_property)


class Payload:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return Path.touch, (self.path,)


def zipped(content: object) -> bytes:
    with io.BytesIO() as file:
        torch.save(content, file)
        return file.getvalue()


@pytest.mark.parametrize("packing", [zipped, pickle.dumps])
@pytest.mark.parametrize("name", ["hostile.ckpt", "hostile.pth"])
def test_payloads(name: str, packing: Callable, tmp_path: Path, record_property: Callable) -> None:
    """Files that would run code, and mutations of them, which may get around what recognises the original."""
    path, touched = tmp_path / name, tmp_path / "touched"
    content = packing({"state_dict": Payload(touched)})
    ran = Counter()

    def use(content: bytes) -> None:
        path.write_bytes(content)
        try:
            load_classifier(path)
        finally:
            ran[touched.exists()] += 1
            touched.unlink(missing_ok=True)

    with pytest.raises(UserError, match="refused"):
        use(content)
    answers_or_refuses("mutated payloads", content, use, record_property)
    record_property(f"{RELIABILITY}payloads run", (ran[True], ran.total()))
    assert not ran[True]
    if packing is pickle.dumps:
        pickle.loads(content)
    else:
        torch.load(io.BytesIO(content), weights_only=False)
    assert touched.exists(), "it was no payload: the test proves nothing"


def idx(values: np.ndarray) -> bytes:
    header = bytes([0, 0, 8, values.ndim]) + b"".join(size.to_bytes(4, "big") for size in values.shape)
    return header + values.astype(np.uint8).tobytes()


@pytest.mark.parametrize("packing", [bytes, gzip.compress])
def test_idx_files(packing: Callable, sample: DigitsDataModule, record_property: Callable) -> None:
    content = idx(sample.splits.test.images[:50, 0].numpy())

    def use(damaged: bytes) -> None:
        if problem := idx_problem(damaged, classes=10):
            raise UserError(problem)

    answers_or_refuses("mutated IDX files", packing(content), use, record_property)


@pytest.mark.parametrize("kind", ["images-idx3", "labels-idx1"])
def test_data_sets_without_sums(kind: str, sample: DigitsDataModule, tmp_path: Path, record_property: Callable) -> None:
    folder = tmp_path / "KMNIST" / "raw"
    folder.mkdir(parents=True)
    parts = {"images-idx3": sample.splits.test.images[:50, 0].numpy(), "labels-idx1": sample.splits.test.target[:50]}
    for name, values in parts.items():
        for part in ("train", "t10k"):
            (folder / f"{part}-{name}-ubyte").write_bytes(idx(np.asarray(values)))
    path = folder / f"train-{kind}-ubyte"

    def use(damaged: bytes) -> None:
        path.write_bytes(damaged)
        train, _, names, _ = Kmnist(tmp_path).load()
        assert train.target.max() < len(names)

    answers_or_refuses("mutated files of KMNIST", path.read_bytes(), use, record_property)


def test_pictures_of_a_folder(trained: Path, tmp_path: Path, record_property: Callable) -> None:
    for i in range(2):
        path = tmp_path / str(i) / "a.png"
        path.parent.mkdir()
        digit(700 * i).save(path)

    def use(damaged: bytes) -> None:
        path.write_bytes(damaged)
        ImageFolder(tmp_path, image_size=28, channels=1).load()

    answers_or_refuses("mutated pictures in a folder of images", path.read_bytes(), use, record_property)


# What a run's folder says


@pytest.mark.parametrize("name", ["metrics.json", "config.yaml"])
def test_folders(name: str, trained: Path, tmp_path: Path, record_property: Callable) -> None:
    folder = tmp_path / "run"
    shutil.copytree(trained, folder)
    path = folder / name

    def use(damaged: bytes) -> None:
        path.write_bytes(damaged)
        compare([folder])
        try:
            Run(folder).read_config()
        except ValueError as error:
            raise UserError(" ".join(str(error).split())) from error

    answers_or_refuses("mutated files of a run's folder", path.read_bytes(), use, record_property)


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF", "AVIF", "HEIF"])
@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_pictures(form: str, trained: Path, sample: DigitsDataModule, record_property: Callable) -> None:
    if form == "HEIF":
        pytest.importorskip("pillow_heif").register_heif_opener()
    classifier: ImageClassifier = load_classifier(trained / "checkpoints" / "best.ckpt")
    with io.BytesIO() as file:
        Image.fromarray(255 - sample.splits.test.images[0, 0].numpy()).resize((90, 90)).save(file, form)
        content = file.getvalue()
    answers_or_refuses("mutated pictures", content, classifier.read, record_property)
