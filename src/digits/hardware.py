"""What the machine is, and which precision it is fast in."""

import math
import platform
from pathlib import Path

import torch
from lightning.pytorch.utilities.memory import is_oom_error

from digits.errors import UserError


def native_bf16(device_type: str) -> bool:
    """Whether the chip multiplies bfloat16 itself; where it only emulates it, float32 is faster."""
    if device_type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device_type == "cpu":
        chip = torch.cpu.get_capabilities()
        return any(chip.get(feature, False) for feature in ("avx512_bf16", "amx_bf16", "bf16"))
    return False


def device_type(accelerator: str) -> str:
    """The kind of device, `cuda`, `mps` or `cpu`, that Lightning's name for an accelerator means here.

    Raises:
        UserError: if this machine has no such device.
    """
    found = torch.accelerator.current_accelerator(check_available=True)
    here = "cpu" if found is None else found.type
    if accelerator == "auto":
        return here
    asked = here if accelerator == "gpu" and here != "cpu" else accelerator
    if asked not in ("cpu", here):
        raise UserError(
            f"trainer.accelerator={accelerator}: this machine has none, only {here}. trainer=auto takes what is there"
        )
    return asked


def plain_float32() -> None:
    """Makes float32 mean float32: by default, convolutions on newer NVIDIA chips round their input to TF32."""
    torch.backends.cudnn.allow_tf32 = False


def resolve_precision(precision: str | int, device_type: str) -> str | int:
    """Lightning's precision that `auto` stands for on a kind of device; any other is returned as it is."""
    if precision != "auto":
        return precision
    return "bf16-mixed" if native_bf16(device_type) else "32-true"


def evaluation_precision(precision: str | int, trained: str) -> str | int:
    """What `auto` stands for when a checkpoint is evaluated: float32, unless its weights are of another type.

    Mixed precisions keep float32 weights, and `Classifier` evaluates those in float32 in training too.

    Args:
        precision: `auto`, or one of Lightning's, which is returned as it is.
        trained: Lightning's canonical name of the precision in training.
    """
    if precision != "auto":
        return precision
    return trained if trained.endswith("-true") else "32-true"


def describe_device(device: torch.device, processes: int = 1) -> str:
    """A device for people, such as `CUDA (NVIDIA H100)`, `CPU (AMD EPYC, 2 threads)` or `2 × CUDA (NVIDIA H100)`."""
    if device.type == "cuda":
        name = f"CUDA ({torch.cuda.get_device_name(device)})"
    elif device.type == "cpu":
        # Lightning divides the threads among the processes of a machine once they start.
        threads = max(1, torch.get_num_threads() // processes)
        name = f"CPU ({_cpu_name()}, {threads} {'thread' if threads == 1 else 'threads'})"
    else:
        name = f"{device.type.upper()} ({_cpu_name()})"
    return name if processes == 1 else f"{processes} × {name}"


def is_out_of_memory(error: BaseException, device: torch.device) -> bool:
    """Whether it is an error for want of memory. On Apple's chips only the memory itself tells."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError) or is_oom_error(error):
        return True
    full = device.type == "mps" and torch.mps.driver_allocated_memory() > 0.9 * torch.mps.recommended_max_memory()
    return full and isinstance(error, RuntimeError)


def memory_advice(batch_size: int | None, eval_batch_size: int, accumulate: int) -> tuple[str, str]:
    """Which batch was too large for the memory, and what would fit and train the same.

    Args:
        batch_size: of training; None where the memory was too small in an evaluation.
        eval_batch_size: of validation and test.
        accumulate: batches whose gradients are accumulated for one step.
    """
    if batch_size is None:
        return f"data.eval_batch_size={eval_batch_size}", "a smaller one"
    if batch_size == 1:
        return "data.batch_size=1", "a smaller model=..."
    parts = next((n for n in range(2, 10) if batch_size % n == 0), 2)
    return f"data.batch_size={batch_size}", (
        f"data.batch_size={math.ceil(batch_size / parts)} trainer.accumulate_grad_batches={parts * accumulate}:"
        f" each step is then over {'about ' if batch_size % parts else ''}as many images as now"
    )


def _cpu_name() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
