"""How long a trained network takes to read an image: PyTorch as it is and compiled, ONNX Runtime in float and 8 bits.

    python -m benchmarks.inference logs/train/runs/<run>/checkpoints/best.ckpt

From pixels in memory, uint8, to logits in memory, on the CPU. Many short rounds each measure all ways, one after
the other, so that a busy machine disturbs all alike; the ratio is one of medians.
"""

import argparse
import os
import statistics
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from rich.console import Console
from rich.table import Table
from torch.utils.benchmark import Timer

from digits.checkpoints import Checkpoint
from digits.errors import UserError
from digits.hardware import describe_device
from digits.model_facts import ModelFacts
from digits.networks import RawPixels
from digits.onnx_model import calibration_images, quantized, to_onnx
from digits.pictures.reader import onnx_classifier, torch_classifier
from digits.runs.run import newest_checkpoint

Logits = Callable[[np.ndarray], np.ndarray]


def compiled(network: torch.nn.Module, facts: ModelFacts) -> Logits:
    """By torch.compile, again for each batch size; on the CPU it needs a C++ compiler."""
    model = torch.compile(RawPixels(network, facts.mean, facts.std).float().eval(), dynamic=False)

    @torch.inference_mode()
    def logits(images: np.ndarray) -> np.ndarray:
        return model(torch.from_numpy(images)).numpy()

    return logits


def seconds(logits: Logits, images: np.ndarray) -> float:
    """Of one call: the median of as many blocks of calls as fit into a tenth of a second."""
    logits(images)  # wakes the threads
    timer = Timer("logits(images)", globals={"logits": logits, "images": images}, num_threads=torch.get_num_threads())
    return timer.blocked_autorange(min_run_time=0.1).median


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", nargs="?", type=Path, help="default: the best of the newest training under logs")
    parser.add_argument("--rounds", type=int, default=20, help="measurements of each way (default: 20)")
    parser.add_argument("--batch", type=int, default=256, help="images in a batch (default: 256)")
    parser.add_argument("--data", metavar="ROOT", help="where the checkpoint's data is, if not where training found it")
    arguments = parser.parse_args()
    try:
        path = arguments.checkpoint or newest_checkpoint()
        checkpoint = Checkpoint.open(path)
        network, data = checkpoint.network(), checkpoint.data(root=arguments.data)
    except UserError as error:
        sys.exit(f"error: {error}")
    facts = checkpoint.facts
    images = data.splits.test.images[: arguments.batch].numpy()
    model = to_onnx(network, facts)
    load = os.getloadavg()[0]  # PyTorch's threads wait for each other: others on the machine slow it down most of all

    ways = {
        "PyTorch": torch_classifier(network, facts).logits,
        "PyTorch, torch.compile": compiled(network, facts),
        "ONNX Runtime": onnx_classifier(model).logits,
        "ONNX Runtime, int8": onnx_classifier(quantized(model, calibration_images(data))).logits,
    }
    unavailable = {}
    for name, logits in ways.items():
        try:
            for batch in (images, images[:1]):  # compiles
                logits(batch)
        except Exception as error:  # a compiler that is missing, or fails, in whatever way
            unavailable[name] = str(error).strip().partition("\n")[0] or type(error).__name__

    latency: dict[str, list[float]] = {name: [] for name in ways if name not in unavailable}
    whole_batch: dict[str, list[float]] = {name: [] for name in latency}
    for round_ in range(arguments.rounds):
        for name in latency:
            latency[name].append(seconds(ways[name], images[:1]))
            whole_batch[name].append(seconds(ways[name], images))
        one_image = "  ".join(f"{name}: {1000 * values[-1]:.3f} ms" for name, values in latency.items())
        print(f"round {round_ + 1}/{arguments.rounds}  {one_image}", flush=True)

    network_name = checkpoint.settings["model"]["_target_"].rpartition(".")[2]
    device = describe_device(torch.device("cpu"))
    versions = f"torch {torch.__version__}, onnxruntime {onnxruntime.__version__}"
    print(f"\n{path}\n{network_name}, {device}, {versions}, load average at the start {load:.1f}")
    table = Table(title=f"medians of {arguments.rounds} rounds")
    for column in ("", "one image, ms", "times as fast", f"batch of {len(images)}, images/s", "times as fast"):
        table.add_column(column, justify="right" if column else "left")
    for name in ways:
        if name in unavailable:
            table.add_row(name, "not available")
            continue
        one, batch = statistics.median(latency[name]), statistics.median(whole_batch[name])
        times = statistics.median(latency["PyTorch"]) / one, statistics.median(whole_batch["PyTorch"]) / batch
        table.add_row(name, f"{1000 * one:.3f}", f"{times[0]:.2f}", f"{len(images) / batch:,.0f}", f"{times[1]:.2f}")
    Console(width=120).print(table)
    for name, reason in unavailable.items():
        print(f"{name}: not available: {reason}")


if __name__ == "__main__":
    main()
