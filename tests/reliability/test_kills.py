"""What a crash or a full disk leaves: a run that resumes with the same bits, and no file that is half-written.

DIGITS_KILLS sets the number of kills, DIGITS_FUZZ_SEED the random moments; both are printed.
"""

import csv
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import PROJECT, RELIABILITY, SEED
from PIL import Image

from digits.archive import load

pytestmark = pytest.mark.slow
KILLS = int(os.environ.get("DIGITS_KILLS", "20"))
RUN = [
    "data=mnist5k",
    "model=fast",
    "rejection=none",
    "trainer=cpu",
    "trainer.max_epochs=3",
    "data.batch_size=20",
    "augmentation=affine",
]
SETTINGS = [["callbacks=ema", "scheduler=onecycle"], ["optimizer=sgd", "scheduler=plateau"]]


def start(*words: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "train.py", *words],
        cwd=PROJECT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def only_whole_files(folder: Path, record: Callable[[str, object], None]) -> None:
    """Opens every file with a final name."""
    files = [path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(".")]
    broken = []
    for path in files:
        try:
            match path.suffix:
                case ".ckpt" | ".pth":
                    load(path)  # every bit of it
                case ".json":
                    json.loads(path.read_text())
                case ".png":
                    Image.open(path).load()
                case ".npz":
                    dict(np.load(path))
        except Exception as error:
            broken.append((path, error))
    record(f"{RELIABILITY}files truncated under a final name", (len(broken), len(files)))
    assert not broken


@pytest.mark.parametrize("settings", SETTINGS, ids=" ".join)
def test_killed_and_resumed_ends_with_the_same_bits(
    settings: list[str], tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    rng = random.Random(SEED)
    whole = start(*RUN, *settings, f"log_dir={tmp_path / 'whole'}")
    assert whole.wait(300) == 0, whole.stderr.read()
    [reference] = (tmp_path / "whole" / "train" / "runs").iterdir()

    words = [*RUN, *settings, "checkpoint_every_seconds=0.2", f"log_dir={tmp_path / 'cut'}"]
    killed = same = chain = 0  # a chain of kills ends with a run that is complete, and is compared as a whole
    folder: Path | None = None
    try:
        while killed < KILLS // len(SETTINGS):
            process = start(*(words if folder is None else [f"resume={folder}"]))
            deadline = time.monotonic() + 120
            while folder is None and time.monotonic() < deadline:  # until there is something to resume
                folder = next((tmp_path / "cut" / "train" / "runs").glob("*/config.yaml"), Path("-")).parent
                folder = folder if folder.name else None
                time.sleep(0.05)
            # The imports take some seconds, in which little can go wrong: most moments are to lie after them.
            time.sleep(rng.choice([rng.uniform(0, 5), rng.uniform(4, 9)]))
            finished = process.poll() is not None
            process.kill()
            process.communicate()
            only_whole_files(folder, record_property)
            if finished:  # all its epochs: from the start again
                assert process.returncode == 0
                assert_same(folder, reference)
                same, chain = same + chain, 0
                shutil.rmtree(tmp_path / "cut")
                folder = None
            else:
                killed, chain = killed + 1, chain + 1
        last = start(f"resume={folder}") if folder else start(*words)
        _, errors = last.communicate(timeout=300)
        assert last.returncode == 0, errors
        folder = folder or next((tmp_path / "cut" / "train" / "runs").iterdir())
        assert_same(folder, reference)
        same += chain
        only_whole_files(folder, record_property)
    finally:
        print(f"\nseed {SEED}: {same} of {killed} kills resumed, the same bits at the end")
        record_property(f"{RELIABILITY}kills resumed bit-identically", (same, killed))


def assert_same(folder: Path, reference: Path) -> None:
    for name in ("mnist_cnn_model.pth", "checkpoints/last.ckpt", "checkpoints/best.ckpt"):
        ours, theirs = (torch.load(path / name, weights_only=True) for path in (folder, reference))
        ours, theirs = ours.get("state_dict", ours), theirs.get("state_dict", theirs)
        assert all(torch.equal(ours[key], theirs[key]) for key in theirs), name
    ours, theirs = (json.loads((path / "metrics.json").read_text()) for path in (folder, reference))
    for name in theirs:
        if "/" in name or name in ("status", "epochs", "tested_epoch", "confusion_matrix"):
            assert ours[name] == theirs[name], name
    assert epochs(folder) == epochs(reference)


def epochs(folder: Path) -> list[dict]:
    with (folder / "metrics.csv").open() as file:
        return [{name: value for name, value in row.items() if name != "seconds"} for row in csv.DictReader(file)]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 3 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=3m", "none", folder], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("needs the right to mount a tmpfs")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_full_disk_leaves_only_whole_files(small_disk: Path, record_property: Callable[[str, object], None]) -> None:
    # Room for a checkpoint and a half, and then for less.
    process = start(*RUN, "logger=[]", "model.hidden=64", "callbacks=[]", f"log_dir={small_disk}")
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 1
    assert errors.count("\n") == 1, errors
    assert "no room to write it" in errors
    assert "MiB are free" in errors
    [folder] = (small_disk / "train" / "runs").iterdir()
    only_whole_files(folder, record_property)
    assert not [path for path in folder.rglob(".*") if path.is_file() and path.name != ".lock"]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_saves_and_says_how_to_resume(number: int, code: int, tmp_path: Path) -> None:
    process = start(*RUN, "trainer.max_epochs=200", "checkpoint_every_seconds=3600", f"log_dir={tmp_path}")
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("train/runs/*/metrics.csv")) and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == code
    assert "Traceback" not in errors
    [folder] = (tmp_path / "train" / "runs").iterdir()
    record = json.loads((folder / "metrics.json").read_text())
    assert record["status"] == "interrupted"
    assert f"python train.py resume={folder}" in record["error"]
    assert torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] >= 200
