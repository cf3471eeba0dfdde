"""How a training ends that fails: with what went wrong in one line, and with what was good before."""

import re
from collections.abc import Callable

import pytest
import torch
from conftest import Command, Outcome

from digits import hardware
from digits.checkpoints import Checkpoint
from digits.networks import CNN

SHORT = ["data=mnist5k", "model=cnn", "trainer=cpu", "trainer.precision=32-true", "logger=[]"]


def only_line(outcome: Outcome) -> str:
    assert outcome.code == 1
    [line] = outcome.err.strip().splitlines()
    assert outcome.record["status"] == "failed"
    assert line.removeprefix("error: ") in outcome.record["error"]
    return line


def test_divergence_says_where_and_keeps_the_last_good_checkpoint(command: Command) -> None:
    # From the second epoch on the learning rate is 1e27.
    words = ["optimizer=sgd", "optimizer.lr=0.001", "scheduler=step", "scheduler.step_size=1", "scheduler.gamma=1e30"]
    outcome = command("train", *SHORT, *words, "trainer.max_epochs=3")
    line = only_line(outcome)
    assert line.startswith("error: training diverged: train/loss is ")
    assert " after step 41, at learning rate 1e+27. Lower optimizer.lr" in line  # 40 steps an epoch
    for name in ("best.ckpt", "last.ckpt"):
        checkpoint = Checkpoint.open(outcome.folder / "checkpoints" / name).content
        assert checkpoint["global_step"] == 40
        assert all(weights.isfinite().all() for weights in checkpoint["state_dict"].values())


def test_divergence_in_the_very_last_step_is_not_saved(command: Command) -> None:
    words = ["optimizer=sgd", "optimizer.lr=1e39", "data.val_size=0", "trainer.limit_train_batches=1"]
    outcome = command("train", *SHORT, *words, "trainer.max_epochs=1")
    assert "training diverged: a weight is not finite after step 1, at learning rate 1e+39." in only_line(outcome)
    assert not list(outcome.folder.rglob("*.ckpt"))


def out_of_memory(images: torch.Tensor) -> None:
    # As PyTorch 2.15 words it on an NVIDIA chip.
    raise torch.OutOfMemoryError(
        "CUDA out of memory. Tried to allocate 2.44 GiB. GPU 0 has a total capacity of 15.77 GiB of which 1.1 GiB is"
        " free."
    )


def out_of_cpu_memory(images: torch.Tensor) -> None:
    torch.empty(2**60, dtype=torch.uint8)


@pytest.mark.parametrize(
    ("batch_size", "accumulate", "advice"),
    [
        (
            400,
            1,
            ("data.batch_size=400", "data.batch_size=200 trainer.accumulate_grad_batches=2: each"),
        ),
        (
            75,
            4,
            ("data.batch_size=75", "data.batch_size=25 trainer.accumulate_grad_batches=12: each"),
        ),
        (
            97,
            1,
            (
                "data.batch_size=97",
                "data.batch_size=49 trainer.accumulate_grad_batches=2: each",
            ),
        ),
        (1, 1, ("data.batch_size=1", "a smaller model=...")),
        (None, 1, ("data.eval_batch_size=250", "a smaller one")),
    ],
)
def test_advice_trains_the_same(batch_size: int | None, accumulate: int, advice: tuple[str, str]) -> None:
    size, way_out = hardware.memory_advice(batch_size, 250, accumulate)
    assert size == advice[0]
    assert way_out.startswith(advice[1])


@pytest.mark.parametrize("fail", [out_of_memory, out_of_cpu_memory])
def test_out_of_memory_is_recognised(fail: Callable) -> None:
    with pytest.raises((RuntimeError, MemoryError)) as caught:
        fail(torch.zeros(1))
    assert hardware.is_out_of_memory(caught.value, torch.device("cpu"))
    assert hardware.is_out_of_memory(MemoryError(), torch.device("cpu"))
    assert not hardware.is_out_of_memory(RuntimeError("another"), torch.device("cpu"))


def test_out_of_memory_on_apples_chips(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their error has no class of its own: the memory tells."""
    error = RuntimeError("MPS backend out of memory (MPS allocated: 17.00 GB, other allocations: 1.00 GB)")
    monkeypatch.setattr(torch.mps, "recommended_max_memory", lambda: 100)
    for used, expected in ((99, True), (50, False)):
        monkeypatch.setattr(torch.mps, "driver_allocated_memory", lambda used=used: used)
        assert hardware.is_out_of_memory(error, torch.device("mps")) is expected


def test_out_of_memory_in_training(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    # After the rehearsal, and after a summary of the network, which asks it once.
    monkeypatch.setattr("digits.rehearsal.rehearse", lambda _: None)
    monkeypatch.setattr(CNN, "forward", lambda network, images: out_of_memory(images) if network.training else images)
    monkeypatch.setattr("digits.report.network_summary", lambda *_: "")
    line = only_line(command("train", *SHORT, "data.batch_size=400"))
    assert re.match(r"error: data.batch_size=400: out of memory on CPU .*\. Give data.batch_size=200 trainer", line), (
        line
    )


def test_out_of_memory_in_validation_and_test(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = CNN.forward
    monkeypatch.setattr("digits.report.network_summary", lambda *_: "")
    monkeypatch.setattr(
        CNN, "forward", lambda network, images: plain(network, images) if network.training else out_of_memory(images)
    )
    for more in ([], ["data.val_size=0"]):
        line = only_line(command("train", *SHORT, "trainer.limit_train_batches=1", "trainer.max_epochs=1", *more))
        assert line.startswith("error: data.eval_batch_size=250: out of memory on CPU (")
        assert line.endswith(". Give a smaller one")


def test_another_error_keeps_its_traceback(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(network: CNN, images: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    monkeypatch.setattr("digits.rehearsal.rehearse", lambda _: None)  # which would name the network
    monkeypatch.setattr(CNN, "forward", broken)
    outcome = command("train", *SHORT)
    assert outcome.code == 1
    assert "Traceback" in outcome.err
