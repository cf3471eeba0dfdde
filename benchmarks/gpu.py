"""Checks and measures on a GPU what no CPU can show. benchmarks/gpu.sh prepares the environment and starts this.

    python -m benchmarks.gpu OUT --seconds 540
    python -m benchmarks.gpu OUT --only resume,throughput
    python -m benchmarks.gpu OUT --device cpu --quick        tries the script itself

Every check runs in a process of its own, with its own limit; one that fails is a row, and the next one goes on. The
order is that of worth. OUT has the results after each of them: the machine may be taken away at any moment.
"""

import argparse
import contextlib
import csv
import json
import math
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from digits.atomic import atomic_write

PROJECT = Path(__file__).parents[1]
CONFIGS = PROJECT / "configs"
SAMPLE = ["data=mnist5k"]  # needs no files
PLAIN = ["figures=false", "rejection=none", "logger=[]"]  # what takes time and is not looked at
EXPERIMENTS = ("speedrun", "quick", "accurate")  # those that there are: the times to an accuracy
GOALS = (0.99, 0.994, 0.995)
RECORD_SHARE = 0.3  # of the time is kept for `record`, if there is one
ENSEMBLE_SECONDS = 45  # is kept for its evaluation
TAIL = 25  # lines of a failed check's output in the JSON
PACKED = 15 * 2**20  # bytes of runs.tar.gz, about


@dataclass
class Ended:
    """A command that ended: its exit code, what it printed, how long it took."""

    code: int
    out: str
    err: str
    seconds: float


class Lab:
    """What a check works with: the device, a folder, the time, the project's commands, and where its findings go.

    Args:
        name: of the check.
        folder: for all its runs.
        seconds: until the check is stopped.
        device: `cuda` or `cpu`.
        quick: with tiny settings, to try the script.
    """

    def __init__(self, name: str, folder: Path, seconds: float, device: str, quick: bool) -> None:
        self.name, self.folder, self.device, self.quick = name, folder, device, quick
        self.end = time.monotonic() + seconds
        self.findings: dict[str, Any] = {}
        # What all trainings of MNIST begin with
        self.mnist = SAMPLE if quick else ["data=mnist", "data.offline_fallback=false"]
        self.trainer = ["trainer=cpu"] if device == "cpu" else ["trainer=auto"]

    def found(self, **facts: Any) -> None:
        """Keeps facts, at once; a list of dicts becomes a table."""
        self.findings |= facts
        with atomic_write(self.folder / "findings.json") as part:
            part.write_text(json.dumps(self.findings))

    @property
    def left(self) -> float:
        return self.end - time.monotonic()

    def run(self, *words: str, code: int | None = 0, **env: str) -> Ended:
        """Runs a command of the project, to the end; fails if it has another exit code than this (None: any)."""
        start, place = time.monotonic(), tempfile.mkdtemp(prefix="command-", dir=self.folder)
        out, err = Path(place, "out"), Path(place, "err")  # files, which are there too if the check is stopped
        with out.open("w") as to_out, err.open("w") as to_err:
            exit_code = subprocess.call(
                [sys.executable, *words], cwd=PROJECT, env=os.environ | env, stdout=to_out, stderr=to_err
            )
        ended = Ended(exit_code, out.read_text(), err.read_text(), time.monotonic() - start)
        shutil.rmtree(place)
        print(f"$ python {' '.join(words)}\n{ended.out}{ended.err}[{ended.code}, {ended.seconds:.1f} s]\n", flush=True)
        if code is not None:
            assert ended.code == code, f"exit code {ended.code}, not {code}: {_last_line(ended.err or ended.out)}"
        return ended

    def train(self, name: str, *overrides: str, code: int | None = 0) -> Ended:
        """Trains, with its logs in `name`; later overrides win."""
        return self.run("train.py", *self.trainer, *PLAIN, *overrides, f"log_dir={self.folder / name}", code=code)

    def at_once(self, jobs: Sequence[Callable[[], Any]], workers: int) -> list[Any]:
        """What the jobs return, in their order, some of them at a time."""
        with ThreadPoolExecutor(workers) as pool:
            return [one.result() for one in [pool.submit(job) for job in jobs]]

    def run_folder(self, name: str) -> Path:
        [folder] = (self.folder / name / "train" / "runs").iterdir()
        return folder

    def record(self, name: str) -> dict[str, Any]:
        return json.loads((self.run_folder(name) / "metrics.json").read_text())

    def history(self, name: str) -> list[dict[str, float]]:
        with (self.run_folder(name) / "metrics.csv").open() as file:
            return [{key: float(value or "nan") for key, value in row.items()} for row in csv.DictReader(file)]

    def best(self, name: str) -> str:
        """The checkpoint that was tested: without a validation split there is only the last one."""
        folder = self.run_folder(name) / "checkpoints"
        return str(next(path for path in (folder / "best.ckpt", folder / "last.ckpt") if path.exists()))

    @property
    def short(self) -> list[str]:
        """A training of some seconds, on the embedded sample."""
        return [*SAMPLE, "model=fast", f"trainer.max_epochs={1 if self.quick else 3}"]


@dataclass
class Check:
    run: Callable[[Lab], None]
    limit: float
    alone: bool


CHECKS: dict[str, Check] = {}


def check(limit: float, alone: bool = False) -> Callable[[Callable[[Lab], None]], Callable[[Lab], None]]:
    """Adds a check: how many seconds it may take, and whether nothing may run beside it, because it measures time."""

    def add(run: Callable[[Lab], None]) -> Callable[[Lab], None]:
        CHECKS[run.__name__] = Check(run, limit, alone)
        return run

    return add


# The checks, by worth. Those of one kind, alone or not, that follow each other are done together.


@check(limit=120, alone=True)
def default(lab: Lab) -> None:
    """`python train.py`, as anybody starts it: device, precision, accuracy; goal: 15 epochs in 10 s."""
    tiny = ["trainer.max_epochs=1", "rejection.passes=1"] if lab.quick else []
    ended = lab.run("train.py", *lab.trainer, *lab.mnist, *tiny, f"log_dir={lab.folder / 'run'}")
    record, history = lab.record("run"), lab.history("run")
    lab.found(
        **{name: record[name] for name in ("device", "precision", "epochs", "train_seconds", "val/acc", "test/acc")},
        command_seconds=round(ended.seconds, 1),
        seconds_of_epochs=[row["seconds"] for row in history],
    )
    assert record["device"].startswith("CPU (" if lab.device == "cpu" else "CUDA ("), record["device"]
    assert f"device: {record['device']}, precision {record['precision']}" in ended.out, "the log does not say so"
    if lab.device == "cuda":
        import torch

        native = torch.cuda.get_device_capability()[0] >= 8
        assert record["precision"] == ("bf16-mixed" if native else "32-true"), record["precision"]
    lab.found(goal_of_10_seconds="reached" if record["train_seconds"] <= 10 else "missed")


@check(limit=110)
def resume(lab: Lab) -> None:
    """A run that SIGKILL ends amid an epoch and that resumes has the bits of two whole ones."""
    settings = [*SAMPLE, "model=fast", "data.batch_size=10", "augmentation=affine", "callbacks=ema"]
    settings += ["scheduler=onecycle", f"trainer.max_epochs={2 if lab.quick else 4}"]
    words = [
        "train.py",
        *lab.trainer,
        *PLAIN,
        *settings,
        "checkpoint_every_seconds=0.1",
        f"log_dir={lab.folder / 'cut'}",
    ]
    whole = [partial(lab.train, name, *settings) for name in ("whole", "again")]
    _, _, step = lab.at_once([*whole, lambda: _kill_amid_an_epoch(lab, words)], workers=3)
    lab.found(killed_after_step=step)
    lab.run("train.py", f"resume={lab.run_folder('cut')}")
    weights = {name: _weights(lab.run_folder(name)) for name in ("whole", "again", "cut")}
    same = {name: _same_bits(weights[name], weights["whole"]) for name in ("again", "cut")}
    records = {name: lab.record(name) for name in weights}
    figures = {name: [records[name][key] for key in ("val/acc", "test/loss", "confusion_matrix")] for name in weights}
    lab.found(two_whole_runs_agree=same["again"], resumed_agrees=same["cut"])
    assert same["again"], "two whole runs of one seed have other weights"
    assert same["cut"], "the resumed run has other weights"
    assert figures["whole"] == figures["again"] == figures["cut"], "the same weights have other figures"


def _kill_amid_an_epoch(lab: Lab, words: list[str]) -> int:
    """Starts a training, kills it amid its second epoch, and returns the steps in the checkpoint that is left."""
    import torch

    process = subprocess.Popen([sys.executable, *words], cwd=PROJECT)
    runs = lab.folder / "cut" / "train" / "runs"
    try:
        _wait(lambda: any(runs.glob("*/metrics.csv")), process)
        last = lab.run_folder("cut") / "checkpoints" / "last.ckpt"
        for _ in range(3):  # the first may be that of the epoch's begin
            before = last.stat().st_mtime_ns
            _wait(lambda before=before: last.stat().st_mtime_ns != before, process)
    finally:
        process.kill()
        process.wait()
    step = int(torch.load(last, weights_only=True)["global_step"])
    per_epoch = 400  # of the sample's 4,000 images
    assert step % per_epoch, f"it was killed between two epochs, after step {step}"
    return step


def _wait(condition: Callable[[], bool], process: subprocess.Popen) -> None:
    while not condition():
        assert process.poll() is None, "the run ended before it could be killed"
        time.sleep(0.01)


def _weights(folder: Path) -> dict[str, Any]:
    import torch

    files = ("mnist_cnn_model.pth", "checkpoints/last.ckpt", "checkpoints/best.ckpt")
    loaded = {name: torch.load(folder / name, weights_only=True, map_location="cpu") for name in files}
    return {f"{file} {name}": value for file, content in loaded.items() for name, value in _state(content).items()}


def _state(content: dict[str, Any]) -> dict[str, Any]:
    return content.get("state_dict", content)


def _same_bits(ours: dict[str, Any], theirs: dict[str, Any]) -> bool:
    import torch

    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in theirs)


@check(limit=90)
def out_of_memory(lab: Lab) -> None:
    """A batch that does not fit ends with one line that says what would."""
    batch = 4000
    if lab.device == "cuda":
        import torch

        memory = torch.cuda.get_device_properties(0).total_memory
    else:
        import resource

        memory = 16 * 2**30
        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    width = math.ceil(1.2 * memory / (batch * 28 * 28 * 2))  # the first convolution's output alone is too large
    wide = ["model=cnn_bn", f"model.channels=[{width},8]", f"data.batch_size={batch}", "trainer.max_epochs=1"]
    ended = lab.train("run", *SAMPLE, *wide, code=None)
    line = _the_one_error(ended)
    lab.found(line=line, other_lines=len(ended.err.splitlines()) - 1)
    assert line.startswith(f"error: data.batch_size={batch}: out of memory on "), line
    assert "data.batch_size=2000 trainer.accumulate_grad_batches=2" in line, line


@check(limit=60)
def diverged(lab: Lab) -> None:
    """Numbers that are not finite end a run within 50 steps, with one line."""
    ended = lab.train("run", *lab.short, "data.batch_size=10", "optimizer.lr=1e30", code=1)
    line = _the_one_error(ended)
    lab.found(line=line, other_lines=len(ended.err.splitlines()) - 1)
    step = int(line.partition(" after step ")[2].split(",")[0].rstrip("."))
    assert step <= 50, line


def _the_one_error(ended: Ended) -> str:
    lines = [line for line in ended.err.splitlines() if line.startswith("error: ")]
    assert ended.code == 1, f"exit code {ended.code}: {_last_line(ended.err or ended.out)}"
    assert len(lines) == 1, f"{len(lines)} lines with an error: {_last_line(ended.err)}"
    assert "Traceback" not in ended.err, "a traceback"
    return lines[0]


@check(limit=110)
def other_device(lab: Lab) -> None:
    """A checkpoint of the GPU has its accuracy on the CPU too, and the other way round."""
    import numpy as np

    rows = []
    lab.at_once([lambda: lab.train("gpu", *lab.short), lambda: lab.train("cpu", *lab.short, "trainer=cpu")], workers=2)
    for name in ("gpu", "cpu"):
        answers = []
        for trainer in (lab.trainer[0], "trainer=cpu"):
            logs = lab.folder / f"{name}-{len(answers)}"
            lab.run("eval.py", trainer, f"ckpt_path={lab.best(name)}", "figures=false", f"log_dir={logs}")
            [folder] = (logs / "eval" / "runs").iterdir()
            record = json.loads((folder / "metrics.json").read_text())
            with np.load(folder / "predictions.npz") as content:
                answers.append(content["probabilities"])
            rows.append({"trained on": name, "tested on": record["device"], "test/acc": record["test/acc"]})
            assert record["test/acc"] == lab.record(name)["test/acc"], rows
        other = int((answers[0].argmax(1) != answers[1].argmax(1)).sum())
        rows[-1] |= {"other answers": other, "largest difference": f"{abs(answers[0] - answers[1]).max():.1e}"}
        lab.found(rows=rows)


@check(limit=110)
def export_and_predict(lab: Lab) -> None:
    """A network trained on the GPU leaves it in each format, and reads a picture as the exported file does."""
    lab.train("run", *lab.short, "rejection=default", *(["rejection.passes=1"] if lab.quick else []))
    checkpoint = f"ckpt_path={lab.best('run')}"
    exports = [["format=onnx"], ["format=onnx", "quantize=true"], ["format=torch_export"], ["format=state_dict"]]
    done = lab.at_once([partial(lab.run, "-m", "digits.export", checkpoint, *one) for one in exports], workers=2)
    lab.found(
        exports=[line for one in done for line in one.out.splitlines() if "%" in line and "checkpoint" not in line]
    )
    picture = "images=docs/images/postcode.png"
    files = {"ckpt": lab.best("run"), "onnx": lab.best("run").replace(".ckpt", ".onnx")}
    reads = {}
    for name, path in files.items():
        output = lab.folder / f"{name}.json"
        lab.run("-m", "digits.predict", picture, f"ckpt_path={path}", f"output={output}")
        reads[name] = [answer.get("text", answer.get("digit")) for answer in _answers(output)]
    lab.found(reads=reads)
    assert reads["ckpt"] == reads["onnx"], reads


def _answers(path: Path) -> list[dict[str, Any]]:
    content = json.loads(path.read_text())
    return content if isinstance(content, list) else content.get("pictures", [content])


@check(limit=110)
def two_jobs(lab: Lab) -> None:
    """Two trainings at a time on one card end as one alone does."""
    words = ["train.py", "-m", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "seed=1,2", *lab.trainer, *PLAIN]
    ended = lab.run(*words, *lab.short, f"log_dir={lab.folder / 'both'}")
    lab.train("alone", *lab.short, "seed=2")
    paths = sorted((lab.folder / "both").glob("train/multiruns/*/*/metrics.json"))
    records = [json.loads(path.read_text()) for path in paths]
    lab.found(devices=[record["device"] for record in records], command_seconds=round(ended.seconds, 1))
    assert [record["status"] for record in records] == ["completed", "completed"]
    assert records[1]["test/loss"] == lab.record("alone")["test/loss"], "beside another job, the figures differ"


@check(limit=130)
def variants(lab: Lab) -> None:
    """bf16 is as good as float32; a compiled network as the plain one; where the images lie changes no bit."""
    graphs = ["compile=reduce-overhead"]
    overrides = {
        "default": [],
        "float32": ["trainer.precision=32-true"],
        "on_host": ["data.on_device=false"],
        "compiled": ["compile=default"],
        **({} if lab.device == "cpu" else {"graphs": graphs, "graphs_again": graphs}),
    }
    settings = [*SAMPLE, f"trainer.max_epochs={1 if lab.quick else 5}"]
    jobs = [partial(lab.train, name, *settings, *words, code=None) for name, words in overrides.items()]
    rows = []
    for name, ended in zip(overrides, lab.at_once(jobs, workers=3), strict=True):
        if ended.code:
            rows.append({"": name, "problem": _last_line(ended.err or ended.out)})
        else:
            same = _same_bits(_weights(lab.run_folder(name)), _weights(lab.run_folder("default")))
            record = lab.record(name)
            figures = {key: record[key] for key in ("precision", "val/acc", "test/acc", "test/loss", "train_seconds")}
            rows.append({"": name, **figures, "the default's bits": same})
        lab.found(rows=rows)
    by_name = {row[""]: row for row in rows}
    broken = [name for name, row in by_name.items() if "problem" in row]
    assert not broken, f"failed: {', '.join(broken)}"
    assert by_name["on_host"]["the default's bits"], "where the images lie changes the weights"
    assert all(abs(row["val/acc"] - rows[0]["val/acc"]) <= 0.02 for row in rows), "accuracies differ by more than 2 %"
    if "graphs" in by_name:
        one, two = (_weights(lab.run_folder(name)) for name in ("graphs", "graphs_again"))
        lab.found(compiled_twice_agrees=_same_bits(one, two))


@check(limit=100)
def tests(lab: Lab) -> None:
    """The tests that need a GPU, and some that take whatever device there is."""
    ended = lab.run(
        "-m", "pytest", "-q", "-p", "no:cacheprovider", "-rs", "tests/test_gpu.py", "tests/test_hardware.py"
    )
    lab.found(summary=_last_line(ended.out))


@check(limit=130)
def parts(lab: Lab) -> None:
    """Every network, augmentation, optimizer, schedule and precision makes some steps, and its test."""
    few = [*SAMPLE, "logger=csv", "trainer.max_epochs=2", f"trainer.limit_train_batches={2 if lab.quick else 20}"]
    groups = ("model", "augmentation", "optimizer", "scheduler", "mixing", "callbacks", "loss")
    sweeps = {group: [path.stem for path in sorted((CONFIGS / group).glob("*.yaml"))] for group in groups}
    sweeps["trainer.precision"] = ["bf16-mixed", "16-mixed", "32-true", "bf16-true"]
    for group in ("callbacks", "model", "mixing"):
        sweeps[group] = [name for name in sweeps[group] if name not in ("default", "none")]
    if lab.quick:
        sweeps = {group: names[:1] for group, names in sweeps.items()}

    def sweep(group: str, names: list[str]) -> list[dict[str, str]]:
        ended = lab.train(group, "-m", *few, f"{group}={','.join(names)}", code=None)
        rows = []
        for folder in sorted((lab.folder / group).glob("train/multiruns/*/[0-9]*"), key=lambda path: int(path.name)):
            path = folder / "metrics.json"
            record = json.loads(path.read_text()) if path.exists() else {"status": "no record"}
            if record["status"] != "completed":
                rows.append({"part": f"{group}={names[int(folder.name)]}", "problem": record.get("error", "?")})
        complete = len(list((lab.folder / group).glob("train/multiruns/*/[0-9]*"))) == len(names)
        if not complete or (ended.code and not rows):
            rows.append({"part": group, "problem": _last_line(ended.err or ended.out)})
        warned = [line for line in ended.err.splitlines() if "determinis" in line]
        return rows + [{"part": group, "warned": line.strip()[:200]} for line in dict.fromkeys(warned)]

    jobs = [partial(sweep, group, names) for group, names in sweeps.items()]
    rows = [row for part in lab.at_once(jobs, workers=4) for row in part]
    lab.found(tried=sum(map(len, sweeps.values())), rows=rows)
    broken = [row["part"] for row in rows if "problem" in row]
    assert not broken, f"not completed: {', '.join(broken)}"


@check(limit=130)
def commands(lab: Lab) -> None:
    """The other commands, and the keys that look at the device, run on it."""
    lab.at_once([partial(lab.train, "run", *lab.short), partial(lab.train, "other", *lab.short, "seed=2")], workers=2)
    checkpoint, logs = f"ckpt_path={lab.best('run')}", f"log_dir={lab.folder}"
    few = [*SAMPLE, "model=fast", "trainer.max_epochs=1", "trainer.limit_train_batches=5"]
    wanted: dict[str, Callable[[], Ended]] = {
        "find_lr": lambda: lab.train("find_lr", *few, "find_lr=true", code=None),
        "find_batch_size": lambda: lab.train("find_batch_size", *few, "find_batch_size=true", code=None),
        "overfit": lambda: lab.train("overfit", "debug=overfit", *few, code=None),
        "trainer=ddp": lambda: lab.train("ddp", *few, "trainer=ddp", "trainer.devices=1", code=None),
        "resume on the CPU": lambda: _resume_on_the_cpu(lab, few),
        "explain": lambda: lab.run(
            "-m", "digits.explain", "images=docs/images/postcode.png", checkpoint, logs, code=None
        ),
        "robustness": lambda: lab.run(
            "-m", "digits.robustness", checkpoint, "images=50", "curve_images=20", "figures=false", logs, code=None
        ),
        "crossval": lambda: lab.run("-m", "digits.crossval", "folds=2", *lab.trainer, *PLAIN, *few, logs, code=None),
        "label_errors": lambda: lab.run("-m", "digits.label_errors", checkpoint, "split=test", logs, code=None),
        "ensemble": lambda: lab.run(
            "eval.py",
            *lab.trainer,
            f"ckpt_path=[{lab.best('run')},{lab.best('other')}]",
            "figures=false",
            logs,
            code=None,
        ),
    }
    done = dict(zip(wanted, lab.at_once([*wanted.values()], workers=4), strict=True))
    rows = [
        {"command": name, "exit code": ended.code, "seconds": round(ended.seconds, 1)}
        | ({"problem": _last_line(ended.err or ended.out)} if ended.code else {})
        for name, ended in done.items()
    ]
    lab.found(rows=rows)
    broken = [name for name, ended in done.items() if ended.code]
    assert not broken, f"failed: {', '.join(broken)}"


def _resume_on_the_cpu(lab: Lab, few: list[str]) -> Ended:
    lab.train("moved", *few)
    folder = f"resume={lab.run_folder('moved')}"
    return lab.run("train.py", folder, "trainer.max_epochs=2", code=None, CUDA_VISIBLE_DEVICES="")


CONTESTANTS: dict[str, list[str] | str] = {  # overrides of train.py, or the mode of a bare loop
    "python train.py": [],
    "bare loop": "eager",
    "python train.py compile=reduce-overhead": ["compile=reduce-overhead"],
    "bare loop, each step one CUDA graph": "graph",
    "python train.py, again": [],
    "bare loop, again": "eager",
    "python train.py compile=default": ["compile=default"],
    "python train.py data.on_device=false": ["data.on_device=false"],
    "python train.py trainer.deterministic=false": ["trainer.deterministic=false"],
    "python train.py trainer.precision=32-true": ["trainer.precision=32-true"],
    "bare loop, torch.compile": "default",
    "bare loop, torch.compile(mode=reduce-overhead)": "reduce-overhead",
}


@check(limit=120, alone=True)
def throughput(lab: Lab) -> None:
    """Images per second: train.py, and a bare loop of the same steps with everything on the device."""
    images, epochs = (4000, 2) if lab.quick else (55_000, 4)
    limits = [f"trainer.max_epochs={epochs}", "trainer.limit_val_batches=0", "trainer.limit_test_batches=0"]
    rows: list[dict[str, Any]] = []

    def seconds_of_epochs(contestant: list[str] | str) -> list[float]:
        if isinstance(contestant, str):
            return json.loads(_last_line(lab.run(*_bare(contestant, lab)).out))
        lab.train(f"run{len(rows)}", *lab.mnist, *limits, *contestant)
        return [row["seconds"] for row in lab.history(f"run{len(rows)}")]

    for name, contestant in CONTESTANTS.items():
        if lab.device == "cpu" and ("graph" in name or "compile" in name):
            continue
        if lab.left < 25 and rows:
            lab.found(cut_short=f"no time for {name} and what follows it")
            break
        try:
            first, *others = seconds_of_epochs(contestant)
        except Exception as error:  # the others are still worth their time
            rows.append({"": name, "problem": str(error)[:200]})
        else:
            seconds = statistics.median(others)  # the first has the warm-up, and the compiler's time
            figures = {"images/s": round(images / seconds), "s an epoch": seconds, "s of the first": first}
            rows.append({"": name} | figures)
        lab.found(rows=rows)
    broken = [row[""] for row in rows if "problem" in row]
    assert not broken, f"failed: {', '.join(broken)}"


def _bare(mode: str, lab: Lab) -> list[str]:
    return ["-m", "benchmarks.gpu", "--bare", mode, "--device", lab.device, *(["--quick"] if lab.quick else [])]


@check(limit=120, alone=True)
def accuracies(lab: Lab) -> None:
    """Seconds to 99.0, 99.4 and 99.5 % by the experiments that there are; chosen on validation."""
    tiny = ["trainer.max_epochs=1", "data.typed=0"] if lab.quick else []
    rows: list[dict[str, Any]] = []
    for name in [name for name in EXPERIMENTS if (CONFIGS / "experiment" / f"{name}.yaml").exists()]:
        # One alone, for the seconds; then further seeds at the same time, some of them with a validation split
        settings = [f"experiment={name}", *lab.mnist, *tiny]
        took = lab.train(f"{name}-1", *settings, "seed=1").seconds
        alone = lab.record(f"{name}-1")
        row = {"experiment": name, "parameters": alone["parameters"], "epochs": alone["epochs"]}
        row |= {"training s": alone["train_seconds"], "command s": round(took, 1)}
        rows.append(row | _mean([alone]) | _reached(lab.history(f"{name}-1")))
        lab.found(rows=rows)
        if lab.left > 2.5 * took + 10 or lab.quick:
            runs = {f"{name}-{seed}": [f"seed={seed}"] for seed in ("2" if lab.quick else "2345")}
            if not alone["split_sizes"]["val"]:  # all images are trained on
                cut = f"data.val_size={500 if lab.quick else 5000}"
                runs |= {f"{name}-val-{seed}": [f"seed={seed}", cut] for seed in ("1" if lab.quick else "12")}
            lab.at_once([partial(lab.train, run, *settings, *words) for run, words in runs.items()], workers=6)
            records = {run: lab.record(run) for run in (f"{name}-1", *runs)}
            tested = [record for run, record in records.items() if "-val-" not in run]
            validated = [run for run, record in records.items() if record.get("val/acc") is not None]
            rows[-1] |= _mean(tested) | _mean([records[run] for run in validated], ["val/acc"])
            rows[-1] |= _reached(lab.history(validated[0]))
            lab.found(rows=rows)
        if lab.left < 40 and not lab.quick:
            lab.found(cut_short=f"no time for what follows {name}")
            break
    fastest = []
    for goal in GOALS:
        able = [row for row in rows if (row["val/acc"] or 0) >= goal]
        best = min(able, key=lambda row: row["training s"], default={})
        cells = {"by": best.get("experiment", "none"), **{key: best.get(key) for key in ("training s", "test/acc")}}
        fastest.append({"to reach, on validation": f"{goal:.1%}", **cells})
    lab.found(times=fastest)


def _mean(records: list[dict[str, Any]], names: Sequence[str] = ("val/acc", "test/acc")) -> dict[str, Any]:
    """Mean, standard deviation and number of the accuracies of some runs."""
    cells: dict[str, Any] = {}
    for name in names:
        values = [record[name] for record in records if record.get(name) is not None]
        cells[name] = round(statistics.mean(values), 6) if values else None
        cells |= {
            f"{name} sd": round(statistics.stdev(values), 6) if len(values) > 1 else None,
            f"{name} n": len(values),
        }
    return cells


def _reached(history: list[dict[str, float]]) -> dict[str, Any]:
    """After how many seconds of training, with validation, an epoch first had each accuracy on validation."""
    cells: dict[str, Any] = {}
    for goal in GOALS:
        passed = [i for i, row in enumerate(history) if row.get("val/acc", 0) >= goal]
        cells[f"s to val {goal:.1%}"] = (
            round(sum(r["seconds"] for r in history[: passed[0] + 1]), 2) if passed else None
        )
    return cells


@check(limit=60, alone=True)
def profile(lab: Lab) -> None:
    """Where a step's time goes: the share in which the device computes, and Lightning's own table."""
    lab.found(bare_loop=json.loads(_last_line(lab.run(*_bare("profile", lab)).out)))
    one = ["trainer.max_epochs=1", "trainer.limit_val_batches=0", "trainer.profiler=simple"]
    lab.train("run", *lab.mnist, *one)
    text = (lab.run_folder("run") / "fit-profile.txt").read_text()
    print(text)
    cells = [[cell.strip() for cell in line.split("|")[1:6]] for line in text.splitlines() if line.count("|") > 5]
    head, *lines = cells
    lab.found(train_py=[dict(zip(head, [action[-60:], *rest], strict=True)) for action, *rest in lines][:20])


@check(limit=math.inf, alone=True)
def record(lab: Lab) -> None:
    """`experiment=record` with as many seeds as there is time for, some at once on the card, and their ensemble."""
    tiny = ["trainer.max_epochs=1", "data.typed=0"] if lab.quick else []
    workers, most = (1, 2) if lab.quick else (int(os.environ.get("RECORD_WORKERS", "1")), 20)
    threads = {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // workers))}
    end, began, slowest = lab.end - ENSEMBLE_SECONDS, time.monotonic(), 0.0
    running: dict[int, tuple[subprocess.Popen, float]] = {}
    finished: list[int] = []
    seed = 0
    while True:
        now = time.monotonic()
        while len(running) < workers and seed < most and now + slowest < end:
            seed += 1
            words = ["train.py", *lab.trainer, *PLAIN, "experiment=record", *lab.mnist, *tiny, f"seed={seed}"]
            words.append(f"log_dir={lab.folder / str(seed)}")
            running[seed] = subprocess.Popen([sys.executable, *words], cwd=PROJECT, env=os.environ | threads), now
        if not running or now > end:
            break
        for one, (process, started) in list(running.items()):
            if process.poll() is not None:
                del running[one]
                slowest = max(slowest, now - started)
                if process.returncode == 0:
                    finished.append(one)
                    rows = [_of_seed(lab, s) for s in sorted(finished)]
                    found = {"seconds_of_a_command": round(slowest, 1), **_mean([lab.record(str(s)) for s in finished])}
                    lab.found(**found, seconds=round(now - began, 1), at_once=workers, rows=rows)
                else:
                    lab.found(failed=[*lab.findings.get("failed", []), one])
        time.sleep(0.1)
    for one, (process, _) in running.items():
        process.kill()
        epochs = [*(lab.folder / str(one)).glob("train/runs/*/metrics.csv")]
        lab.found(not_finished=lab.findings.get("not_finished", {}) | {one: _epochs(epochs)})
    assert finished, "no training was finished in the time"
    paths = ",".join(lab.best(str(s)) for s in sorted(finished))
    lab.run("eval.py", *lab.trainer, f"ckpt_path=[{paths}]", "figures=false", f"log_dir={lab.folder / 'ensemble'}")
    [path] = (lab.folder / "ensemble").glob("eval/runs/*/metrics.json")
    lab.found(ensemble_of=len(finished), ensemble_test_acc=json.loads(path.read_text())["test/acc"])
    assert not lab.findings.get("failed"), f"seeds that failed: {lab.findings['failed']}"


def _of_seed(lab: Lab, seed: int) -> dict[str, Any]:
    record = lab.record(str(seed))
    return {"seed": seed, **{name: record.get(name) for name in ("val/acc", "test/acc", "epochs", "train_seconds")}}


def _epochs(histories: list[Path]) -> int:
    return len(histories[0].read_text().splitlines()) - 1 if histories else 0


# The rivals of train.py


def bare_loop(mode: str, device: str, quick: bool) -> None:
    """Prints the seconds of each epoch: the same network, batch, optimizer and precision; bytes on the device.

    Args:
        mode: `eager`; a mode of torch.compile, for the network; `graph`, all of a step in one CUDA graph; or `profile`,
            which prints how much of its time the device is busy.
        device: to train on.
        quick: the embedded sample, two epochs.
    """
    import torch
    from torch.nn.functional import cross_entropy

    from digits.data import DigitsDataModule
    from digits.networks import CNN

    torch.backends.cudnn.allow_tf32 = False  # as in train.py
    data = DigitsDataModule("mnist5k" if quick else "mnist", root=os.environ.get("DIGITS_DATA", "data"))
    mean, std = 0.1307, 0.3081
    images, target = data.splits.train.images.to(device), data.splits.train.target.to(device)
    network = CNN().to(device, memory_format=torch.channels_last)
    forward = network if mode in ("eager", "graph", "profile") else torch.compile(network, mode=mode)
    optimizer = torch.optim.Adam(network.parameters(), lr=0.001, fused=True, capturable=mode == "graph")

    def step(chosen: torch.Tensor) -> None:
        optimizer.zero_grad(set_to_none=True)
        batch = (images[chosen].float() / 255 - mean) / std
        with torch.autocast(device, torch.bfloat16):
            loss = cross_entropy(forward(batch), target[chosen])
        loss.backward()
        optimizer.step()

    def epoch(step: Callable[[torch.Tensor], None], batches: int | None = None) -> float:
        _synchronise(device)
        start = time.perf_counter()
        for chosen in torch.randperm(len(images), device=device).split(100)[:batches]:
            step(chosen)
        _synchronise(device)
        return round(time.perf_counter() - start, 4)

    if mode == "profile":
        print(json.dumps(_busy(lambda: epoch(step, 50), device)))
    else:
        one = _as_graph(step, device) if mode == "graph" else step
        print([epoch(one) for _ in range(2 if quick else 4)])


def _synchronise(device: str) -> None:
    import torch

    if device == "cuda":
        torch.cuda.synchronize()


def _as_graph(step: Callable[[Any], None], device: str) -> Callable[[Any], None]:
    """A step recorded as one CUDA graph, which starts all its kernels at once."""
    import torch

    static = torch.arange(100, device=device)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            step(static)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step(static)

    def replay(chosen: torch.Tensor) -> None:
        static.copy_(chosen)
        graph.replay()

    return replay


def _busy(run: Callable[[], float], device: str) -> dict[str, Any]:
    """How many kernels 50 steps start, and which share of their time the device computes."""
    import torch
    from torch.profiler import ProfilerActivity, profile

    run()
    seconds = run()
    if device == "cpu":
        return {"ms_a_step": round(1000 * seconds / 50, 3)}
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiler:
        run()
    on_device = [event for event in profiler.events() if event.device_type == torch.autograd.DeviceType.CUDA]
    kernels = [event for event in on_device if not event.is_user_annotation]  # which span kernels
    busy = sum(event.self_device_time_total for event in kernels) / 1e6
    return {
        "ms_a_step": round(1000 * seconds / 50, 3),
        "kernels_a_step": round(len(kernels) / 50, 1),
        "device_busy": round(busy / seconds, 3),
    }


# The runner


@dataclass
class Runner:
    """Runs checks, each in a process of its own, and keeps what they find.

    Args:
        out: the folder for the results.
        seconds: for all.
        command: the command line of a check, given its name, folder and seconds.
        workers: checks at a time, where they need not be alone.
        facts: more for the results.
        least: seconds, for fewer of which no check is begun.
    """

    out: Path
    seconds: float
    command: Callable[[str, Path, float], list[str]]
    workers: int = 1
    facts: dict[str, Any] = field(default_factory=dict)
    least: float = 10

    def __post_init__(self) -> None:
        self.start = time.monotonic()
        self.results: dict[str, dict[str, Any]] = {}
        self.processes: set[subprocess.Popen] = set()
        self.lock = threading.Lock()

    @cached_property
    def work(self) -> Path:
        return Path(tempfile.mkdtemp(prefix="digits-gpu-"))

    @property
    def left(self) -> float:
        return self.seconds - (time.monotonic() - self.start)

    def run(self, checks: dict[str, Check]) -> None:
        """Runs all, in their order, as far as the time goes; what is left is kept for the last, if it has no limit."""
        last = [*checks][-1]
        share = RECORD_SHARE * self.seconds if math.isinf(checks[last].limit) else 0
        try:
            self.results = {name: {"status": "not run", "problem": "no time was left"} for name in checks}
            self.write()
            for names in _together(checks):
                with ThreadPoolExecutor(self.workers if len(names) > 1 else 1) as pool:
                    kept = 0 if last in names else share
                    for one in [pool.submit(self._check, name, checks[name], kept) for name in names]:
                        one.result()
                self._pack()
        finally:
            for process in self.processes:
                _kill(process)
            self.write()
            shutil.rmtree(self.work, ignore_errors=True)

    def _check(self, name: str, check: Check, kept: float) -> None:
        """Runs one check, and writes what came of it; `kept` seconds have to be left for a later one."""
        limit = min(check.limit, self.left - kept - 2)
        if limit < self.least:
            return
        print(f"{name} ...", flush=True)
        folder = self.work / name
        folder.mkdir()
        began = time.monotonic()
        status = self._status(self.command(name, folder, limit - 2), check, limit, folder / "log.txt")
        found = folder / "findings.json"
        findings = json.loads(found.read_text()) if found.exists() else {}
        result: dict[str, Any] = {"status": status, "seconds": round(time.monotonic() - began, 1), "findings": findings}
        logs = [folder / "log.txt", *sorted(folder.glob("command-*/*"))]  # the latter of commands that were at work
        lines = [line for path in logs for line in path.read_text(errors="replace").splitlines()]
        if status in ("failed", "timed out"):
            result |= {"problem": _last_line("\n".join(lines)), "tail": lines[-TAIL:]}
        with self.lock:
            self.results[name] = result
            with (self.out / "log.txt").open("a") as file:
                file.write("\n".join([f"{'=' * 20} {name}: {status}", *lines, "", ""]))
            self.write()
        print(f"{name}: {status}, {result['seconds']} s  {result.get('problem', '')}", flush=True)

    def _status(self, words: list[str], check: Check, limit: float, log: Path) -> str:
        """Runs a check's process to its end, or to its limit."""
        few = max(1, (os.cpu_count() or 1) // (2 * self.workers))  # many processes share the cores
        threads = {} if check.alone else {"OMP_NUM_THREADS": str(few)}
        with log.open("w") as file:
            process = subprocess.Popen(
                words,
                cwd=PROJECT,
                env=os.environ | threads,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            self.processes.add(process)
            try:
                return "failed" if process.wait(limit) else "passed"
            except subprocess.TimeoutExpired:
                return "timed out"
            finally:
                _kill(process)
                self.processes.discard(process)

    def write(self) -> None:
        """The results so far, as JSON and as a table."""
        took = round(time.monotonic() - self.start, 1)
        everything = {**self.facts, "seconds": took, "checks": self.results}
        with atomic_write(self.out / "results.json") as part:
            part.write_text(json.dumps(everything, indent=2) + "\n")
        with atomic_write(self.out / "results.md") as part:
            part.write_text(as_markdown(everything))

    def _pack(self) -> None:
        """Records and histories of the runs that were measured, then their weights, as far as there is room."""
        runs = [self.work / name for name in ("record", "accuracies", "default")]
        kinds = ("metrics.json", "metrics.csv", "*.pth")
        paths = [path for kind in kinds for folder in runs for path in sorted(folder.rglob(kind))]
        room = PACKED
        with atomic_write(self.out / "runs.tar.gz") as part, tarfile.open(part, "w:gz") as tar:
            for path in paths:
                if (room := room - path.stat().st_size) > 0:
                    tar.add(path, path.relative_to(self.work))


def _together(checks: dict[str, Check]) -> Iterator[list[str]]:
    """The names of checks that run at the same time."""
    group: list[str] = []
    for name, one in checks.items():
        if group and (one.alone or checks[group[-1]].alone):
            yield group
            group = []
        group.append(name)
    if group:
        yield group


def _kill(process: subprocess.Popen) -> None:
    """Ends a check and all that it started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def as_markdown(results: dict[str, Any]) -> str:
    """A table of all checks, and below it a table for each that found one."""
    machine = ", ".join(f"{name} {value}" for name, value in results.get("machine", {}).items())
    overview, tables = [], []
    for name, result in results["checks"].items():
        findings = result.get("findings", {})
        flat = {key: value for key, value in findings.items() if not _is_table(value)}
        found = result.get("problem") or "; ".join(f"{key} {value}" for key, value in flat.items())
        overview.append(
            {"check": name, "result": result["status"], "s": result.get("seconds", ""), "found": found[:400]}
        )
        tables += [f"## {name}: {key}\n\n{_table(value)}" for key, value in findings.items() if _is_table(value)]
    return "\n\n".join([f"# {machine}", _table(overview), *tables]) + "\n"


def _is_table(value: Any) -> bool:
    return bool(value) and isinstance(value, list) and isinstance(value[0], dict)


def _table(rows: list[dict[str, Any]]) -> str:
    columns = list(dict.fromkeys(key for row in rows for key in row))
    cells = [[str(row.get(column, "")).replace("|", "/").replace("\n", " ") for column in columns] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in [columns, ["---"] * len(columns), *cells])


def _last_line(text: str) -> str:
    return ([line.strip() for line in text.splitlines() if line.strip()] or [""])[-1]


def print_machine() -> None:
    """Prints, as JSON, what this machine is."""
    import platform

    import lightning
    import torch

    facts: dict[str, Any] = {"device": "none", "torch": torch.__version__, "python": platform.python_version()}
    facts |= {"lightning": lightning.__version__, "cores": os.cpu_count()}
    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        facts |= {"device": properties.name, "memory GiB": round(properties.total_memory / 2**30, 1)}
        facts |= {"capability": f"{properties.major}.{properties.minor}", "cuDNN": torch.backends.cudnn.version()}
    print(json.dumps(facts))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, nargs="?", help="folder for the results")
    parser.add_argument("--seconds", type=float, default=540, help="for all checks together (default: 540)")
    parser.add_argument("--only", help="names of checks, with commas between them: " + ", ".join(CHECKS))
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu: to try the script")
    parser.add_argument("--quick", action="store_true", help="tiny settings, to try the script")
    parser.add_argument("--workers", type=int, default=max(1, (os.cpu_count() or 1) // 3), help="checks at a time")
    for internal in ("--check", "--folder", "--bare"):  # what this script gives itself
        parser.add_argument(internal, help=argparse.SUPPRESS)
    parser.add_argument("--machine", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.machine:
        print_machine()
    elif given.bare:
        bare_loop(given.bare, given.device, given.quick)
    elif given.check:
        CHECKS[given.check].run(Lab(given.check, Path(given.folder), given.seconds, given.device, given.quick))
    else:
        measure(given, parser)


def measure(given: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    """Runs the checks that were asked for."""
    if not (CONFIGS / "experiment" / "record.yaml").exists():
        del CHECKS["record"]
    names = given.only.split(",") if given.only else [*CHECKS]
    if wrong := [name for name in names if name not in CHECKS]:
        parser.error(f"--only {wrong[0]}: there is no such check, only {', '.join(CHECKS)}")
    if given.out is None:
        parser.error("give a folder for the results")
    start = time.monotonic()
    words = [sys.executable, "-m", "benchmarks.gpu"]
    machine = json.loads(
        _last_line(subprocess.run([*words, "--machine"], stdout=subprocess.PIPE, check=True).stdout.decode())
    )
    if given.device == "cuda" and machine["device"] == "none":
        parser.error("torch finds no CUDA device here. DEVICE=cpu QUICK=1 tries the script itself")
    given.out.mkdir(parents=True, exist_ok=True)
    (given.out / "log.txt").write_text("")

    def command(name: str, folder: Path, seconds: float) -> list[str]:
        further = ["--device", given.device, *(["--quick"] if given.quick else [])]
        return [*words, "--check", name, "--folder", str(folder), "--seconds", str(seconds), *further]

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    facts = {"machine": machine, "quick": given.quick, "limit": given.seconds}
    runner = Runner(given.out.resolve(), given.seconds - (time.monotonic() - start), command, given.workers, facts)
    # The limits are those of a machine with a GPU
    slow = 5 if given.device == "cpu" else 1
    runner.run({name: replace(one, limit=slow * one.limit) for name, one in CHECKS.items() if name in names})
    print((given.out / "results.md").read_text())


if __name__ == "__main__":
    main()
