"""What the machine is, and which precision it is fast in."""

import platform
from pathlib import Path

import torch


def native_bf16(device_type: str) -> bool:
    """Whether the chip multiplies bfloat16 itself; where it only emulates it, float32 is faster."""
    if device_type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device_type == "cpu":
        chip = torch.cpu.get_capabilities()
        return any(chip.get(feature, False) for feature in ("avx512_bf16", "amx_bf16", "bf16"))
    return False


def resolve_precision(precision: str | int, accelerator: str) -> str | int:
    """What `trainer.precision=auto` stands for on this machine: bf16-mixed where it is native, else 32-true.

    Args:
        precision: `auto`, or one of Lightning's, which is returned as it is.
        accelerator: Lightning's name of it: `auto`, `cpu`, `gpu`, `cuda`, `mps`.
    """
    if precision != "auto":
        return precision
    found = torch.accelerator.current_accelerator(check_available=True)
    device_type = "cpu" if accelerator == "cpu" or found is None else found.type
    return "bf16-mixed" if native_bf16(device_type) else "32-true"


def describe_device(device: torch.device) -> str:
    """A device for people: `CUDA (NVIDIA H100)`, `MPS (Apple M3)` or `CPU (AMD EPYC, 2 threads)`."""
    if device.type == "cuda":
        return f"CUDA ({torch.cuda.get_device_name(device)})"
    if device.type == "cpu":
        return f"CPU ({_cpu_name()}, {torch.get_num_threads()} threads)"
    return f"{device.type.upper()} ({_cpu_name()})"


def _cpu_name() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
