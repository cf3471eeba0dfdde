"""Several processes: DDP on the CPU gives what one process gives, in one folder; sweeps in parallel processes."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import PROJECT
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

pytestmark = pytest.mark.slow
FAST = ["data=mnist5k", "model=fast", "figures=false", "rejection=none"]
SHORT = [*FAST, "trainer.max_epochs=1", "trainer.limit_train_batches=5"]
DDP = ["trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2"]


def run(script: str, *words: str, **environment: str) -> subprocess.CompletedProcess:
    answer = subprocess.run(
        [sys.executable, f"{script}.py", *words],
        cwd=PROJECT,
        env={name: value for name, value in (os.environ | environment).items() if value},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert "Traceback" not in answer.stderr, answer.stderr
    return answer


def records(logs: Path, pattern: str) -> dict[str, dict]:
    return {path.parent.name: json.loads(path.read_text()) for path in sorted(logs.glob(f"{pattern}/metrics.json"))}


@pytest.fixture(scope="module")
def distributed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The logs of a run on two processes, with a number of test images that two do not divide."""
    logs = tmp_path_factory.mktemp("ddp")
    answer = run("train", *DDP, *FAST, "data.test_size=501", "trainer.max_epochs=2", f"log_dir={logs}")
    assert answer.returncode == 0, answer.stderr
    return logs


def test_one_run_one_folder_one_set_of_figures(distributed: Path) -> None:
    [folder] = (distributed / "train" / "runs").iterdir()
    assert [path.name for path in distributed.rglob("metrics.json")] == ["metrics.json"]
    record = json.loads((folder / "metrics.json").read_text())
    assert record["status"] == "completed"
    assert record["device"].startswith("2 × CPU")
    events = EventAccumulator(str(folder / "tensorboard" / "val"))
    events.Reload()
    assert len(events.Scalars("curves/acc")) == 2
    assert len({path.name.split(".")[-2] for path in (folder / "tensorboard").rglob("events*")}) == 1  # process number
    assert (folder / "train.log").read_text().count("epoch  1/2") == 1
    with (folder / "metrics.csv").open() as file:
        assert [row["epoch"] for row in csv.DictReader(file)] == ["1", "2"]


def test_each_test_image_is_counted_once(distributed: Path) -> None:
    [folder] = (distributed / "train" / "runs").iterdir()
    record = json.loads((folder / "metrics.json").read_text())
    assert record["split_sizes"]["test"] == 501
    assert sum(map(sum, record["confusion_matrix"])) == 501
    predictions = np.load(folder / "predictions.npz")
    assert len(set(predictions["index"])) == 501
    assert np.isclose((predictions["probabilities"].argmax(1) == predictions["target"]).mean(), record["test/acc"])


@pytest.mark.parametrize("devices", [["trainer=cpu"], DDP])
def test_metrics_are_those_of_one_process(distributed: Path, devices: list[str], tmp_path: Path) -> None:
    [folder] = (distributed / "train" / "runs").iterdir()
    trained = json.loads((folder / "metrics.json").read_text())
    answer = run(
        "eval", *devices, "figures=false", f"ckpt_path={folder / 'checkpoints' / 'best.ckpt'}", f"log_dir={tmp_path}"
    )
    assert answer.returncode == 0, answer.stderr
    [evaluated] = records(tmp_path, "eval/runs/*").values()
    for name in ("acc", "precision", "recall", "f1", "loss"):
        assert evaluated[f"test/{name}"] == pytest.approx(trained[f"test/{name}"], abs=1e-6)
    assert evaluated["confusion_matrix"] == trained["confusion_matrix"]
    [other] = (tmp_path / "eval" / "runs").iterdir()
    assert (other / "misclassified.csv").read_text() == (folder / "misclassified.csv").read_text()


def test_gradients_are_those_of_the_whole_batch(tmp_path: Path) -> None:
    """Two processes with half the batch each take the same step as one with the whole: no dropout, plain SGD."""
    plain = [*FAST, "optimizer=sgd", "model.dropout=0", "trainer.max_epochs=1", "trainer.precision=32-true"]
    for name, words in {"one": ["trainer=cpu", "data.batch_size=4000"], "two": [*DDP, "data.batch_size=2000"]}.items():
        answer = run("train", *plain, *words, f"log_dir={tmp_path / name}")
        assert answer.returncode == 0, answer.stderr
    [one, two] = (
        torch.load(next((tmp_path / name).rglob("mnist_cnn_model.pth")), weights_only=True) for name in ("one", "two")
    )
    for name in one:
        torch.testing.assert_close(one[name], two[name], atol=1e-5, rtol=1e-4)


def test_sweep_of_distributed_jobs_continues_after_a_failure(tmp_path: Path) -> None:
    answer = run("train", "-m", *SHORT, *DDP, "optimizer.lr=0.001,-1,0.002", f"log_dir={tmp_path}")
    assert answer.returncode == 1
    assert answer.stderr.count("Invalid learning rate: -1") == 1
    [sweep] = (tmp_path / "train" / "multiruns").iterdir()
    jobs = records(sweep, "*")
    assert [job["status"] for job in jobs.values()] == ["completed", "failed", "completed"]
    assert len(list(tmp_path.rglob("metrics.json"))) == 3


def test_divergence_of_all_processes_is_one_line(tmp_path: Path) -> None:
    answer = run("train", *SHORT, *DDP, "optimizer.lr=1e30", f"log_dir={tmp_path}")
    assert answer.returncode == 1
    assert answer.stderr.count("error: training diverged") == 1
    assert [record["status"] for record in records(tmp_path, "train/runs/*").values()] == ["failed"]


def test_a_killed_process_ends_the_other_and_the_run_resumes(tmp_path: Path) -> None:
    words = [*FAST, *DDP, "trainer.max_epochs=3", "data.batch_size=5", f"log_dir={tmp_path}"]
    first = subprocess.Popen(
        [sys.executable, "train.py", *words, "checkpoint_every_seconds=0.5"],
        cwd=PROJECT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("train/runs/*/metrics.csv")) and time.monotonic() < deadline:
        time.sleep(0.2)
    children = subprocess.run(
        ["pgrep", "-P", str(first.pid)], capture_output=True, text=True, check=True
    ).stdout.split()
    os.kill(int(children[0]), signal.SIGKILL)
    _, errors = first.communicate(timeout=120)
    assert first.returncode == 1
    assert "another process of this run died" in errors
    [folder] = (tmp_path / "train" / "runs").iterdir()
    assert json.loads((folder / "metrics.json").read_text())["status"] == "failed"
    answer = run("train", f"resume={folder}")
    assert answer.returncode == 0, answer.stderr
    record = json.loads((folder / "metrics.json").read_text())
    assert record["status"] == "completed"
    assert record["epochs"] == 3


def test_a_job_that_slurm_preempts_and_requeues_resumes(tmp_path: Path) -> None:
    """With a stand-in for `scontrol requeue`, which ends the job as SLURM does; no SLURM is needed."""
    scontrol = tmp_path / "bin" / "scontrol"
    scontrol.parent.mkdir()
    scontrol.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/scontrol.log\n(sleep 0.2; kill -TERM $PPID) &\n')
    scontrol.chmod(0o755)
    slurm = {
        "PATH": f"{scontrol.parent}:{os.environ['PATH']}",
        **{"SLURM_JOB_ID": "77", "SLURM_JOB_NAME": "digits", "SLURM_NODELIST": "localhost", "SLURM_NTASKS": "1"},
        **{"SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NODEID": "0"},
    }
    words = [*FAST, "trainer=cpu", "trainer.max_epochs=15", "augmentation=affine", "logger=[]"]
    first = subprocess.Popen(
        [sys.executable, "train.py", *words, f"log_dir={tmp_path / 'logs'}"],
        cwd=PROJECT,
        env=os.environ | slurm,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("logs/train/runs/*/metrics.csv")) and time.monotonic() < deadline:
        time.sleep(0.1)
    first.send_signal(signal.SIGUSR1)
    assert first.wait(60) == 143
    assert (tmp_path / "scontrol.log").read_text() == "requeue 77\n"
    [folder] = (tmp_path / "logs" / "train" / "runs").iterdir()
    assert json.loads((folder / "metrics.json").read_text())["status"] == "interrupted"

    again = run("train", *words, f"log_dir={tmp_path / 'logs'}", **slurm, SLURM_RESTART_COUNT="1")
    assert again.returncode == 0, again.stderr
    assert [path.name for path in (tmp_path / "logs" / "train" / "runs").iterdir()] == [folder.name]
    assert run("train", *words, f"log_dir={tmp_path / 'whole'}").returncode == 0
    [whole] = (tmp_path / "whole" / "train" / "runs").iterdir()
    ours, theirs = (torch.load(path / "mnist_cnn_model.pth", weights_only=True) for path in (folder, whole))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    ours, theirs = (json.loads((path / "metrics.json").read_text()) for path in (folder, whole))
    assert ours["confusion_matrix"] == theirs["confusion_matrix"]
    # Another command of the same job begins a run of its own.
    other = run("train", *SHORT, f"log_dir={tmp_path / 'logs'}", **slurm, SLURM_RESTART_COUNT="1")
    assert other.returncode == 0, other.stderr
    assert len(list((tmp_path / "logs" / "train" / "runs").iterdir())) == 2


def test_torchrun_makes_one_run(tmp_path: Path) -> None:
    words = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "train.py", *SHORT, *DDP]
    answer = subprocess.run(
        [sys.executable, *words, f"log_dir={tmp_path}"], cwd=PROJECT, capture_output=True, text=True, check=False
    )
    assert answer.returncode == 0, answer.stderr
    assert [record["status"] for record in records(tmp_path, "train/runs/*").values()] == ["completed"]


def test_torchrun_refuses_a_sweep(tmp_path: Path) -> None:
    words = ["-m", *SHORT, "seed=1,2", f"log_dir={tmp_path}"]
    first = run("train", *words, RANK="0", LOCAL_RANK="0", WORLD_SIZE="2")
    assert first.returncode == 1
    assert first.stderr.startswith("error: a sweep does not go with torchrun")
    assert run("train", *words, RANK="1", LOCAL_RANK="1", WORLD_SIZE="2").returncode == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("launcher", "package"), [("joblib", "joblib"), ("submitit_local", "submitit"), ("ray_local", "ray")]
)
def test_sweep_in_parallel_processes(launcher: str, package: str, tmp_path: Path) -> None:
    pytest.importorskip(package)
    answer = run(
        "train", "-m", *SHORT, f"hydra/launcher={launcher}", "model.dropout=0.3,2", "seed=1,2", f"log_dir={tmp_path}"
    )
    assert answer.returncode == 1  # as a job failed
    [sweep] = (tmp_path / "train" / "multiruns").iterdir()
    jobs = records(sweep, "*")
    assert [job["status"] for job in jobs.values()] == ["completed", "completed", "failed", "failed"]
    with (sweep / "summary.csv").open() as file:
        assert [row["status"] for row in csv.DictReader(file)] == ["completed", "completed", "failed", "failed"]
    assert "dropout=2" in (sweep / "summary.md").read_text()


def test_threads_are_divided_among_parallel_jobs(tmp_path: Path) -> None:
    words = ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "seed=1,2", f"log_dir={tmp_path}"]
    answer = run("train", "-m", *SHORT, *words, OMP_NUM_THREADS="")
    assert answer.returncode == 0, answer.stderr
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    for record in records(tmp_path, "train/multiruns/*/*").values():
        assert f"{max(1, cores // 2)} thread" in record["device"]
