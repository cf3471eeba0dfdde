"""Precision and device are chosen for the hardware."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from digits import hardware
from digits.errors import UserError


@pytest.mark.parametrize(
    ("features", "precision"),
    [
        ({"avx512_bf16": True}, "bf16-mixed"),
        ({"amx_bf16": True}, "bf16-mixed"),
        ({"bf16": True}, "bf16-mixed"),  # ARM
        ({"avx512_f": True, "avx512_bf16": False}, "32-true"),
        ({"neon": True}, "32-true"),
    ],
)
def test_bf16_only_where_the_cpu_has_it(features: dict, precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: features)
    assert hardware.resolve_precision("auto", "cpu") == precision


@pytest.mark.parametrize(("native", "precision"), [(True, "bf16-mixed"), (False, "32-true")])
def test_bf16_only_where_the_gpu_has_it(native: bool, precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: native and not including_emulation)
    assert hardware.resolve_precision("auto", "cuda") == precision


def test_mps_and_a_chosen_precision() -> None:
    assert hardware.resolve_precision("auto", "mps") == "32-true"
    assert hardware.resolve_precision("16-mixed", "cuda") == "16-mixed"


@pytest.mark.parametrize(
    ("precision", "trained", "expected"),
    [
        ("auto", "bf16-mixed", "32-true"),
        ("auto", "32-true", "32-true"),
        ("auto", "bf16-true", "bf16-true"),
        ("64-true", "32-true", "64-true"),
    ],
)
def test_evaluation_precision(precision: str, trained: str, expected: str) -> None:
    assert hardware.evaluation_precision(precision, trained) == expected


@pytest.mark.parametrize(
    ("accelerator", "here", "expected"),
    [
        ("auto", "cuda", "cuda"),
        ("auto", "mps", "mps"),
        ("auto", None, "cpu"),
        ("gpu", "cuda", "cuda"),
        ("gpu", "mps", "mps"),
        ("cpu", "cuda", "cpu"),
        ("gpu", None, None),
        ("cuda", "mps", None),
        ("mps", None, None),
    ],
)
def test_device(accelerator: str, here: str | None, expected: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    found = here and SimpleNamespace(type=here)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available: found)
    if expected:
        assert hardware.device_type(accelerator) == expected
    else:
        with pytest.raises(UserError, match=f"trainer.accelerator={accelerator}"):
            hardware.device_type(accelerator)


def test_description_names_the_chip() -> None:
    description = hardware.describe_device(torch.device("cpu"))
    assert f"{torch.get_num_threads()} thread" in description
    if (cpuinfo := Path("/proc/cpuinfo")).exists() and "model name" in cpuinfo.read_text():
        assert description.partition("(")[2].partition(",")[0] in cpuinfo.read_text()
