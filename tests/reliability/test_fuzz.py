"""Mutated command lines and files: an answer or one line that says what is wrong, never a traceback, never a hang.

DIGITS_FUZZ sets the number of examples of each; hypothesis prints how to repeat one that fails.
"""

import gzip
import io
import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from conftest import Command
from hydra import compose, initialize_config_dir
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from omegaconf import DictConfig, OmegaConf
from PIL import Image

from digits import load_classifier
from digits.checkpoints import load_checkpoint, restore_network
from digits.cli import CONFIGS
from digits.data import DigitsDataModule
from digits.datasets import parse_idx
from digits.errors import UserError
from digits.inference import ImageClassifier

pytestmark = pytest.mark.slow
EXAMPLES = int(os.environ.get("DIGITS_FUZZ", "300"))
SEED = int(os.environ.get("DIGITS_FUZZ_SEED", "0")) or int.from_bytes(os.urandom(4), "big")
FUZZ = settings(
    max_examples=EXAMPLES,
    deadline=None,
    database=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)
QUICK = ["data=mnist5k", "model=fast", "trainer=cpu", "trainer.fast_dev_run=1", "logger=[]", "callbacks=[]"]
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
    *("callbacks.data_figures.folder", "callbacks.best_checkpoint.dirpath"),
)
outcomes: Counter = Counter()


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


def test_command_lines(command: Command) -> None:
    @FUZZ
    @seed(SEED)
    @given(st.lists(word(), min_size=1, max_size=2))
    def one(words: list[str]) -> None:
        if any(each.startswith(("-", "hydra")) or each.lstrip("+~").startswith(LEFT_ALONE) for each in words):
            return
        outcome = command("train", *QUICK, *words)
        outcomes[outcome.code] += 1
        assert outcome.code in (0, 1), words
        assert "Traceback" not in outcome.err, (words, outcome.err)
        if outcome.code == 1:
            assert outcome.err.startswith("error: "), (words, outcome.err)

    one()
    print(f"\nseed {SEED}: {sum(outcomes.values())} command lines, {dict(outcomes)} by exit code, 0 tracebacks")


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


def answers_or_refuses(name: str, content: bytes, use) -> None:
    """Uses each damaged file, which either works or is refused by a UserError of one line."""
    kinds: Counter = Counter()

    @FUZZ
    @seed(SEED)
    @given(st.data())
    def one(data: st.DataObject) -> None:
        refusal = ""
        try:
            use(data.draw(damage(content)))
        except UserError as error:
            refusal = str(error)
        assert "\n" not in refusal
        kinds["refused" if refusal else "read"] += 1

    one()
    print(f"\nseed {SEED}: {sum(kinds.values())} {name}, {dict(kinds)}, 0 other ends")


def test_checkpoints(trained: Path, tmp_path: Path) -> None:
    path = tmp_path / "damaged.ckpt"

    def use(content: bytes) -> None:
        path.write_bytes(content)
        restore_network(load_checkpoint(path), path)

    answers_or_refuses("checkpoints", (trained / "checkpoints" / "best.ckpt").read_bytes(), use)


def test_idx_files(sample: DigitsDataModule) -> None:
    images = sample.splits.test.images[:50, 0].numpy()
    header = bytes([0, 0, 8, 3]) + b"".join(size.to_bytes(4, "big") for size in images.shape)

    def use(content: bytes) -> None:
        try:
            array = parse_idx(content)
        except ValueError as error:
            raise UserError(str(error)) from error
        assert array.dtype in (np.uint8, np.int32)

    answers_or_refuses("IDX files", header + images.tobytes(), use)
    answers_or_refuses("zipped IDX files", gzip.compress(header + images.tobytes()), use)


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF"])
def test_pictures(form: str, trained: Path, sample: DigitsDataModule) -> None:
    classifier: ImageClassifier = load_classifier(trained / "checkpoints" / "best.ckpt")
    with io.BytesIO() as file:
        Image.fromarray(255 - sample.splits.test.images[0, 0].numpy()).resize((90, 90)).save(file, form)
        content = file.getvalue()
    answers_or_refuses(f"{form} pictures", content, classifier.predict)
