"""The searches before training: what they cannot find is said in one line, and nothing is changed."""

from types import SimpleNamespace
from typing import Any

import pytest
from omegaconf import OmegaConf

from digits import tuning
from digits.errors import UserError


@pytest.mark.parametrize(
    ("wanted", "batch_size", "processes", "line"),
    [
        ("find_lr", 100, 2, "need trainer.devices=1: find the values first"),
        ("find_batch_size", 100, 2, "need trainer.devices=1"),
        ("find_batch_size", None, 1, "find_batch_size: my.data.Module has no attribute batch_size to change"),
        ("find_batch_size", 100, 1, "find_batch_size: not even data.batch_size=100 fits into memory. Give a smaller"),
        ("find_lr", 100, 1, "find_lr: too few steps to find a learning rate. Give optimizer.lr, or more"),
    ],
)
def test_what_cannot_be_found(
    wanted: str, batch_size: int | None, processes: int, line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tuning, "probe", lambda trainer: trainer)
    monkeypatch.setattr(tuning, "find_batch_size", lambda *_: None)
    monkeypatch.setattr(tuning, "find_lr", lambda *_: (None, {}))
    cfg = OmegaConf.create({"find_lr": False, "find_batch_size": False, "optimizer": {"lr": 0.1}, wanted: True})
    data: Any = SimpleNamespace(batch_size=batch_size, dataset="my.data.Module")
    trainer: Any = SimpleNamespace(world_size=processes)
    run: Any = None
    with pytest.raises(UserError) as error:
        tuning.tune(cfg, run, data, trainer, lambda: None)  # type: ignore[arg-type, return-value]
    assert line in str(error.value)
    assert "\n" not in str(error.value)
    assert (cfg.optimizer.lr, data.batch_size) == (0.1, batch_size)
