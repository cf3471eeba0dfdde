"""The command line: quick answers, and errors of one line that name the offender and the way out."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from conftest import PROJECT, Command, call
from hydra.utils import instantiate
from omegaconf import OmegaConf

SMALL = ["data=mnist5k", "model=fast", "trainer.max_epochs=1", "trainer.limit_train_batches=5"]
SMALL += ["figures=false", "rejection=none"]
ERRORS = {
    "optimizr=sgd": "there is no key optimizr. Did you mean optimizer?",
    "optimizer=sdg": "there is no optimizer=sdg. Did you mean sgd? There are: adam, adamw, muon, rmsprop, sgd",
    "optimizer.lrr=1": "there is no key optimizer.lrr. Did you mean optimizer.lr?",
    "lr=0.1": "there is no key lr. Did you mean optimizer.lr?",
    "trainer.max_epoch=3": "there is no key trainer.max_epoch. Did you mean trainer.max_epochs?",
    "++model_input=true": "model_input=true: should be a valid dictionary (the default is model_input=",
    "tags=[[1]]": "tags=[1]: give a name",
    "freeze=[1]": "freeze=1: fits no parameter. There are features, head",
    "freeze=[{a:1}]": "freeze={'a': 1}: give a name",
    "pretrained=[1]": "pretrained=[1]: give a name",
    "teacher=[{a:1}]": "teacher={'a': 1}: give a name",
    "teacher=nowhere.ckpt": "nowhere.ckpt: no such file. Give a checkpoint or a run's folder",
    "distillation.weight=0.5": "distillation.weight: is read only beside teacher=, which is not given",
    "xyzzy=1": "there is no key xyzzy. See --help for the keys that there are.",
    "optimizer=adam,sgd": "optimizer=adam,sgd: several values. -m in front runs each of them",
    "epochs=3": "there is no key epochs. Did you mean trainer.max_epochs?",
    "-m optimizer=adam, sgd": "optimizer=adam,: several values go without blanks between them: optimizer=adam,sgd",
    "+focal=2": "+focal: nothing reads this key.",
    "callbacks.best_checkpoint.monitor=val/los": "callbacks.best_checkpoint.monitor=val/los: there are train/loss",
    "+callbacks.best_checkpoint.mode=min": "mode=min: of val/acc, the maximum is best. Leave mode out",
    "callbacks.best_checkpoint.save_top_k=3 callbacks.best_checkpoint.filename=x": "would replace each other",
    "optimizer.lr=[": "no viable alternative at input",
    "optimizer.lr=abc": "optimizer.lr=abc: should be a valid number (the default is optimizer.lr=0.001)",
    "trainer.max_epochs=1.5": "trainer.max_epochs=1.5: should be a valid integer",
    "model.channels=7": "model.channels=7: should be a valid list",
    "seed=null": "seed=null: should be a valid integer (the default is seed=1)",
    "optimizer.lr=null": "optimizer.lr=null: should be a valid number (the default is optimizer.lr=0.001)",
    "optimizer.betas=[0.9]": "optimizer: list index out of range",
    "~model": "~model: model is needed. Choose another (model=...), or remove a key inside it",
    "data.root=": "data.root='': give the folder that holds, or will hold, MNIST/raw; DIGITS_DATA names it too",
    "data.split_seed=-1": "data.split_seed=-1: should be greater than or equal to 0",
    "data.offline_fallback=no": "data.offline_fallback=no: should be a valid boolean (the default is",
    "model.batch_norm=no": "model.batch_norm=no: should be a valid boolean",
    "data.pin_memory=no": "data.pin_memory=no: should be a valid boolean",
    "optimizer.lr=-1": "optimizer: Invalid learning rate: -1",
    "seed=-1": "seed=-1: should be greater than or equal to 0",
    "seed=${nowhere}": "'nowhere' not found",
    "data.batch_size=0": "data.batch_size=0: should be greater than 0",
    "data.dataset=cifar": "data.dataset=cifar: there are ",
    "data.val_size=abc": "data.val_size=abc: should be a valid number",
    "data.mean=dark": "data.mean=dark: should be a valid number",
    "data.mean=[0.1,0.2]": "data.mean=[0.1, 0.2]: give one number, or one for each of 1 channels",
    "data.folds=1": "data.folds=1: should be greater than or equal to 2",
    "data=cifar": "there is no data=cifar. There are: emnist, fashion_mnist, image_folder, kmnist, mnist, mnist5k",
    "data=image_folder": "data.root=null: give the folder that holds a folder of images for each class",
    "data.root=/nowhere data=image_folder": "data.root=/nowhere: no such folder",
    "logger=[tensorboard,cvs]": "there is no logger=cvs. Did you mean csv? There are: csv, mlflow, tensorboard, wandb",
    "callbacks=nothing": "there is no callbacks=nothing. There are: clean_epochs, default",
    "hydra/launcher=joblob": "there is no hydra/launcher=joblob. Did you mean joblib?",
    "logger=null": "logger=null: give logger=[] for none. There are: csv, mlflow, tensorboard, wandb",
    "model=null": "model=null: There are: cnn, cnn_bn, densenet, fast, resnet18, staged",
    "trainer.accumulate_grad_batches=0": "trainer.accumulate_grad_batches=0: give 1 or more",
    "trainer.num_nodes=2": "trainer.num_nodes=2: this process was started alone",
    "scheduler=plateau scheduler.monitor=nonsense": "scheduler.monitor=nonsense: there are train/loss",
    "data=image_folder data.root=5": "data.root=5: should be a valid string",
    "compile=true": "compile=true: ",
    "compile=fast": "compile=fast: should be 'default', 'reduce-overhead'",
    "data.on_device=true data.num_workers=2": "data.on_device=true: worker processes have no images of a device",
    "experiment=worst": "there is no experiment=worst. There are: accurate, quick, record, robust, speedrun,",
    "scheduler.interval=batch": "scheduler.interval=batch: should be 'epoch' or 'step'",
    "scheduler=onecycle scheduler.pct_start=2": "scheduler: ",
    "loss.label_smoothing=2": "label_smoothing=2: should be less than or equal to 1",
    "model=resnet18 model.blocks=[2]": "blocks=[2]: Value should have at least 4 items",
    "find_lr=true trainer.devices=2 trainer.accelerator=cpu": "find_lr and find_batch_size need trainer.devices=1",
    "data.root=/dev/null": "/dev/null/MNIST/raw/train-images-idx3-ubyte.gz: cannot be read (Not a directory)",
    "model.dropout=2": "dropout=2: should be less than or equal to 1",
    "model.channels=[1,2,3,4,5]": "5 halvings leave nothing of 28 pixels",
    "trainer.accelerator=quantum": "trainer.accelerator=quantum: this machine has none",
    "trainer.devices=0": "devices=0",
    "trainer.precision=7": "Precision 7 is invalid",
    "optimizer.lr=1e30": "training diverged",
    "+logger.mine._target_=torch.nn.Identity": "logger.mine._target_=torch.nn.Identity: makes no Logger",
    "+logger.mine._target_=nowhere.Mine": "logger.mine._target_=nowhere.Mine: names nothing that can be made",
    "+callbacks.mine._target_=torch.nn.Identity": "callbacks.mine._target_=torch.nn.Identity: makes no Callback",
    "+callbacks.mine._target_=os.getcwd": "callbacks.mine._target_=os.getcwd: makes no Callback",
    "name=a/b": "name=a/b: a folder is named by it. Give 1 to 60 letters, digits and . _ + -",
    "tags=paper": "tags=paper: should be a valid list",
}


@pytest.mark.parametrize("override", ERRORS)
def test_bad_override_is_one_line(override: str, command: Command) -> None:
    data = [] if override.startswith("data") else ["data=mnist5k"]
    outcome = command("train", *data, "trainer.max_epochs=1", *override.split(" "))
    assert outcome.code == 1
    [line] = outcome.err.strip().splitlines()
    assert line.startswith("error: ")
    assert ERRORS[override] in line
    assert "Traceback" not in outcome.out
    if outcome.folder:  # a training that had begun
        assert outcome.record["status"] == "failed"
        assert outcome.record["error"]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["scheduler=step", "scheduler.step_size=0"], "error: scheduler: "),
        (["optimizer=sgd", "optimizer.momentum=0"], "error: optimizer: Nesterov momentum requires"),
    ],
)
def test_arguments_that_do_not_go_together_show_before_training(
    overrides: list[str], message: str, command: Command
) -> None:
    outcome = command("train", "data=mnist5k", *overrides)
    assert outcome.code == 1
    assert outcome.err.startswith(message)
    assert "epoch " not in outcome.out


@pytest.mark.slow
@pytest.mark.parametrize("output", [">&-", "| head -n 1"])
def test_closed_output_does_not_cost_the_run(output: str, tmp_path: Path) -> None:
    command = f"{sys.executable} train.py {' '.join(SMALL)} log_dir={tmp_path} {output}"
    answer = subprocess.run(["bash", "-c", command], cwd=PROJECT, capture_output=True, text=True, check=False)
    assert "Traceback" not in answer.stderr
    [record] = tmp_path.glob("train/runs/*/metrics.json")
    assert json.loads(record.read_text())["status"] == "completed"


def test_log_folder_that_cannot_be_made_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    answer = run("train.py", "data=mnist5k", "log_dir=/dev/null")
    assert answer.returncode == 1
    assert answer.stderr.startswith("error: /dev/null")
    assert len(answer.stderr.strip().splitlines()) == 1


@pytest.mark.skipif(torch.accelerator.is_available(), reason="there is a GPU")
def test_missing_gpu_is_one_line(command: Command) -> None:
    outcome = command("train", "data=mnist5k", "trainer=gpu")
    assert outcome.code == 1
    assert "trainer.accelerator=gpu: this machine has none" in outcome.err
    assert "trainer=auto" in outcome.err


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ([], "there is no checkpoint under "),
        (["ckpt_path=nowhere.ckpt"], "nowhere.ckpt: no such file"),
        (["ckpt_path=pyproject.toml"], "pyproject.toml: no checkpoint"),
        (["ckpt_pth=best.ckpt"], "there is no key ckpt_pth. Did you mean ckpt_path?"),
    ],
)
def test_bad_checkpoint_is_one_line(
    overrides: list[str], message: str, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(PROJECT)
    outcome = command("eval", *overrides)
    assert outcome.code == 1
    [line] = outcome.err.strip().splitlines()
    assert line.startswith(f"error: {message}")


def run(*words: str, **env: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, *words], cwd=PROJECT, env=os.environ | env, capture_output=True, text=True, check=False
    )


def test_multirun_may_stand_anywhere(command: Command) -> None:
    outcome = command("train", "data=mnist5k", "-m", "seed=1,2", *SMALL)
    assert outcome.code == 0, outcome.err
    assert len(list(outcome.folder.glob("*/metrics.json"))) == 2


@pytest.mark.parametrize("folder", ["", "null", "/tmp/a,/tmp/b"])
def test_log_dir_that_is_none_is_refused(folder: str, capsys: pytest.CaptureFixture) -> None:
    assert call("train", "-m", "data=mnist5k", "seed=1", f"log_dir={folder}") == 1
    assert capsys.readouterr().err.startswith(f"error: log_dir={folder}: ")


def test_full_error_shows_the_traceback(tmp_path: Path) -> None:
    answer = run("train.py", "optimizr=sgd", f"log_dir={tmp_path}", HYDRA_FULL_ERROR="1")
    assert answer.returncode == 1
    assert "Traceback" in answer.stderr
    assert "ConfigCompositionException" in answer.stderr


def test_unexpected_error_keeps_its_traceback(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    from digits import report

    monkeypatch.setattr(report, "data_statistics", lambda data: 1 / 0)
    outcome = command("train", "data=mnist5k")
    assert outcome.code == 1
    assert "Traceback" in outcome.err
    assert "ZeroDivisionError" in outcome.err
    assert outcome.record["status"] == "failed"
    assert outcome.record["error"] == "ZeroDivisionError: division by zero"


QUICK = """
import sys
import {script}
for words in {cases!r}:
    sys.argv = ["{script}.py", *words]
    try:
        {script}.main()
        stop = None
    except SystemExit as error:
        stop = error.code
    print("ended", stop)
    print("slow imports:", {{"torch", "torchvision", "lightning", "matplotlib"}} & sys.modules.keys())
"""


@pytest.mark.parametrize("script", ["train", "eval"])
def test_quick_answers_import_nothing_slow(script: str, tmp_path: Path) -> None:
    """--help and errors in the command line must not wait for seconds of imports: one process answers them all."""
    expected = {
        ("--help",): "group=choice",
        ("--cfg", "job"): "max_epochs: 15",
        ("optimizr=sgd",): "ended 1",
        ("trainer.max_epochs=abc",): "ended 1",
    }
    needed = ["ckpt_path=x"] if script == "eval" else []
    cases = [[*words, *needed, f"log_dir={tmp_path}"] for words in expected]
    answer = run("-c", QUICK.format(script=script, cases=cases))
    *answers, rest = re.split(r"slow imports: set\(\)\n", answer.stdout)
    assert (len(answers), rest) == (len(cases), ""), answer.stderr
    for text, what in zip(answers, expected.values(), strict=True):
        assert what in text


STRANGERS = [
    *("os.system", "subprocess.run", "builtins.eval", "builtins.exec", "shutil.rmtree", "pickle.loads"),
    *("torch.os.system", "digits.runs.run.subprocess.run", "torch.hub.load", "torch.load", "torch", "lightning"),
    *("digits.archive.save", "digits.runs.processes.restore", "torch.package.PackageImporter"),
    "torch.distributed.elastic.multiprocessing.subprocess_handler.SubprocessHandler",
]
CALLS = [
    "{_target_: os.mkdir, path: PATH}",
    "{_target_: torch.distributed.elastic.multiprocessing.subprocess_handler.SubprocessHandler, entrypoint: mkdir,"
    " args: [PATH], env: {}, stdout: null, stderr: null, local_rank_id: 0, numa_options: null}",
    "{_target_: lightning.pytorch.callbacks.LambdaCallback, setup: {_target_: os.mkdir, path: PATH}}",
    "{_target_: torch.nn.Sequential, _args_: [{_target_: os.mkdir, path: PATH}]}",
]


@pytest.fixture
def strangers_run(trained: Path, tmp_path: Path) -> Callable[[dict], Path]:
    """The folder of a run whose config somebody else has written."""

    def change(changes: dict) -> Path:
        folder = tmp_path / "run"
        shutil.copytree(trained, folder, dirs_exist_ok=True)
        config = OmegaConf.merge(OmegaConf.load(trained / "config.yaml"), OmegaConf.create({"x": 1}))
        for key, value in changes.items():
            OmegaConf.update(config, key, value, force_add=True)
        OmegaConf.save(config, folder / "config.yaml")
        return folder

    return change


@pytest.mark.parametrize("target", STRANGERS)
def test_the_config_of_a_resumed_run_cannot_name_other_code(command: Command, strangers_run, target: str) -> None:
    folder = strangers_run({"optimizer._target_": target})
    outcome = command("train", f"resume={folder}", "trainer.max_epochs=9")
    assert outcome.code == 1
    home = target.partition(".")[0]
    refused = ("code that is not of digits, torch", "no class that an experiment is made of", f"of {home}, a file may")
    assert any(f"optimizer._target_={target}: {reason}" in outcome.err for reason in refused)
    assert outcome.err.count("\n") == 1


@pytest.mark.parametrize("call", CALLS)
def test_the_config_of_a_resumed_run_calls_nothing_else(
    command: Command, strangers_run, call: str, tmp_path: Path
) -> None:
    touched = tmp_path / "touched"
    folder = strangers_run({"callbacks.evil": yaml.safe_load(call.replace("PATH", str(touched)))})
    outcome = command("train", f"resume={folder}", "trainer.max_epochs=9")
    assert outcome.code == 1
    assert outcome.err.startswith(f"error: resume={folder}: callbacks.evil.")
    assert outcome.err.count("\n") == 1
    assert not touched.exists()


@pytest.mark.parametrize(
    "call",
    [
        "${oc.create:'{_target_: os.mkdir, path: PATH}'}",
        "${oc.decode:'{_target_: os.mkdir, path: PATH}'}",
        {"_target_": "${oc.decode:os.mkdir}", "path": "PATH"},
    ],
)
def test_the_config_of_a_resumed_run_holds_no_interpolation(
    command: Command, strangers_run, call: str | dict, tmp_path: Path
) -> None:
    touched = tmp_path / "touched"
    folder = strangers_run({"callbacks.evil": yaml.safe_load(json.dumps(call).replace("PATH", str(touched)))})
    outcome = command("train", f"resume={folder}", "trainer.max_epochs=9")
    assert outcome.code == 1
    assert "its config.yaml is damaged: interpolations" in outcome.err
    assert not touched.exists()
    instantiate(OmegaConf.load(folder / "config.yaml").callbacks.evil)  # it is a threat indeed
    assert touched.exists()


def test_what_a_user_types_is_not_policed(command: Command, tmp_path: Path) -> None:
    touched = tmp_path / "touched"
    command("train", "data=mnist5k", f"+callbacks.mine={{_target_: os.mkdir, path: {touched}}}")
    assert touched.exists()


def test_a_refused_start_leaves_no_folder(command: Command, tmp_path: Path) -> None:
    for override in ("optimizer.lr=abc", "data.batch_size=0", "model.dropout=2", "data=image_folder"):
        assert command("train", "data=mnist5k", override).code == 1
    assert command("eval", "ckpt_path=nowhere.ckpt").code == 1
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
    assert not list(tmp_path.glob("logs/*/runs/*"))
