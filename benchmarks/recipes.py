"""Validation accuracy of many recipes: one base, and what changes when one part of it does.

    python -m benchmarks.recipes --seconds 120            on a GPU: 33 trainings of 30 to 60 epochs in two minutes
    python -m benchmarks.recipes --only M,tiny --epochs 2

It compares before anything is settled: 50,000 of the training images train, the other 10,000 tell; the test images are
not read. A training is a bare loop over the project's networks and augmentations, with everything on the device. On a
GPU each step is one CUDA graph, and eight networks train at a time, each on a stream of its own; in processes of their
own they would wait for each other. Results are appended to recipes.jsonl in the output folder.
"""

import argparse
import json
import math
import os
import time
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from torch import nn

from digits.augmentation import Digits, Shift
from digits.data import DigitsDataModule
from digits.networks import StagedCNN, Whitening

FORMS = {"accuracy": ".2%", "nll": ".4f", "epochs": ".1f", "seconds": ".0f"}
CHUNKS_AHEAD = 3  # half epochs that wait on a network's stream, so that it never runs dry
HELD_OUT = 10_000
MEDIUM = {"widths": [32, 64, 128], "convolutions": [2, 3, 3], "pooled": [False, True, False]}
SMALL = {"widths": [32, 64, 96], "convolutions": [2, 2, 2], "pooled": [False, True, False]}
TINY = {"whitening": 0, "head": "mean", "pooled": [True, True, False]}
MILD = {"degrees": 7, "translate": 0.07, "scale": 0.1, "shear": 5, "elastic": 0.4}
STRONG = {"degrees": 12, "scale": 0.2, "shear": 15, "elastic": 1.0}


@dataclass(frozen=True)
class Recipe:
    """What trains a network: arguments of `StagedCNN`; of `Digits`, or pixels for `Shift`, or none; and the rest."""

    network: dict[str, Any]
    augmentation: dict[str, Any] | int | None = field(default_factory=lambda: {"degrees": 10})
    epochs: float = 30
    batch: int = 250
    lr: float = 0.005
    betas: tuple[float, float] = (0.9, 0.99)
    smoothing: float = 0.0
    decay: float = 0.0
    clean: int = 2
    linear: bool = False  # the learning rate rises and falls in straight lines, not as a cosine
    seed: int = 1


BASE = Recipe(MEDIUM)
SHORT = Recipe({"momentum": 0.4, "crop": 2}, 2, 4.4, 256, 0.01, (0.7, 0.9), clean=0)  # epochs of 50,000
ONES = SHORT.network | {"convolutions": [1, 1, 1]}
DASH = replace(SHORT, network=ONES, augmentation=None, epochs=0.72, lr=0.02, smoothing=0.2, linear=True)
SLIM = Recipe(TINY | {"widths": [8, 12, 14], "convolutions": [1, 2, 3]}, MILD, 60, lr=0.01)
RECIPES = {
    "M": BASE,
    "M, seed 2": replace(BASE, seed=2),
    "M, squeeze 16": replace(BASE, network=MEDIUM | {"squeeze": 16}),
    "M, mean in place of max": replace(BASE, network=MEDIUM | {"head": "mean"}),
    "M, dropout 0.3": replace(BASE, network=MEDIUM | {"dropout": 0.3}),
    "M, no clean epochs": replace(BASE, clean=0),
    "M, 4 clean epochs": replace(BASE, clean=4),
    "M, 60 epochs": replace(BASE, epochs=60),
    "M, mild": replace(BASE, augmentation=MILD),
    "M, strong": replace(BASE, augmentation=STRONG),
    "M, elastic 0": replace(BASE, augmentation={"elastic": 0.0}),
    "M, elastic 1.2": replace(BASE, augmentation={"elastic": 1.2}),
    "M, scale 0.25": replace(BASE, augmentation={"scale": 0.25}),
    "M, translate 0.05": replace(BASE, augmentation={"translate": 0.05}),
    "M, smoothing 0.1": replace(BASE, smoothing=0.1),
    "M, lr 0.01": replace(BASE, lr=0.01),
    "M, batch 100, lr 0.003": replace(BASE, batch=100, lr=0.003),
    "M, weight decay 0.05": replace(BASE, decay=0.05),
    "M, weight decay 0.3": replace(BASE, decay=0.3),
    "small": replace(BASE, network=SMALL),
    "early pooling, 64 to 256": replace(BASE, network={"widths": [64, 128, 256]}),
    "small, twice as wide": replace(BASE, network=SMALL | {"widths": [64, 128, 256]}),
    "tiny 8-12-14": SLIM,
    "tiny 8-12-16": replace(SLIM, network=TINY | {"widths": [8, 12, 16], "convolutions": [1, 2, 2]}),
    "quick": replace(SHORT, smoothing=0.1),
    "quick, no smoothing": SHORT,
    "quick, smoothing 0.2": replace(SHORT, smoothing=0.2),
    "speedrun": DASH,
    "speedrun, cosine": replace(DASH, linear=False),
    "speedrun, not cropped": replace(DASH, network=ONES | {"crop": 0}),
    "speedrun, batches of 192": replace(DASH, batch=192),
    "speedrun, no smoothing": replace(DASH, smoothing=0.0),
    "speedrun, a whole epoch": replace(DASH, epochs=1.1),
    "speedrun, 24 to 96": replace(DASH, network=ONES | {"widths": [24, 48, 96]}),
}


class Images:
    """The training images on the device, cut in two by a fixed seed."""

    def __init__(self, root: str, device: torch.device) -> None:
        data = DigitsDataModule(root=root, offline_fallback=False, val_size=0)
        train, self.device, self.normalise = data.splits.train, device, data.normalise
        order = torch.randperm(len(train), generator=torch.Generator().manual_seed(0))
        self.train, self.held_out = train.subset(order[HELD_OUT:].numpy()), train.subset(order[:HELD_OUT].numpy())
        self.train, self.held_out = self.train.to(device), self.held_out.to(device)


class Training:
    """One network in training, on a stream of its own where there is a GPU."""

    def __init__(self, name: str, recipe: Recipe, images: Images) -> None:
        torch.manual_seed(recipe.seed)
        self.name, self.recipe, self.images, device = name, recipe, images, images.device
        self.on_gpu = device.type == "cuda"
        network = StagedCNN(**recipe.network)
        for layer in network.modules():
            if isinstance(layer, Whitening):
                layer.fit(images.normalise(images.train.images[:2000].cpu().float() / 255))
        self.network = network.to(device, memory_format=torch.channels_last)
        kind = recipe.augmentation
        self.augment: nn.Module = (
            nn.Identity() if kind is None else Shift(kind) if isinstance(kind, int) else Digits(**kind)
        )
        self.steps = len(images.train) // recipe.batch
        self.total, self.done = int(self.steps * recipe.epochs), 0
        parameters = [one for one in network.parameters() if one.requires_grad]
        groups = [
            {"params": [one for one in parameters if one.ndim > 1], "weight_decay": recipe.decay},
            {"params": [one for one in parameters if one.ndim < 2], "weight_decay": 0.0},
        ]
        self.lr = torch.tensor(0.0, device=device)
        self.rates = torch.tensor([*_one_cycle(recipe.lr, self.total, recipe.linear)], device=device)
        fast = {"fused": self.on_gpu, "capturable": self.on_gpu}
        self.optimizer = torch.optim.AdamW(groups, lr=self.lr, betas=recipe.betas, **fast)
        self.order = torch.arange(len(images.train), device=device)
        self.batch = torch.arange(recipe.batch, device=device)
        self.place, self.count = (torch.zeros(1, dtype=torch.long, device=device) for _ in range(2))
        self.graphs: dict[bool, torch.cuda.CUDAGraph] = {}
        self.waiting: list[torch.cuda.Event] = []
        self.stream = torch.cuda.Stream() if self.on_gpu else None
        if self.on_gpu:
            self._capture()
        self.started = time.monotonic()

    def _capture(self) -> None:
        assert self.stream
        self.stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.stream):
            state = {name: value.clone() for name, value in self.network.state_dict().items()}
            for clean in (False, False, False, True):  # a graph needs warm kernels, and an optimizer with its state
                self.step(clean)
            self.stream.synchronize()
        for clean in (False, True):
            self.optimizer.zero_grad(set_to_none=True)
            self.graphs[clean] = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self.graphs[clean], stream=self.stream):
                self.step(clean)
        with torch.no_grad(), torch.cuda.stream(self.stream):
            self.network.load_state_dict(state)
            for moments in self.optimizer.state.values():
                for value in moments.values():
                    value.zero_()
            self.place.zero_()
            self.count.zero_()
        self.stream.synchronize()

    def step(self, clean: bool) -> None:
        """One step of the optimizer; nothing in it waits for the device."""
        self.network.train()
        index = self.order[self.batch + self.place * self.recipe.batch]
        pixels, target = self.images.train.images[index].float() / 255, self.images.train.target[index]
        if not clean:
            pixels = self.augment(pixels)
        self.lr.copy_(self.rates[self.count].sum())
        with torch.autocast(self.images.device.type, torch.bfloat16, cache_enabled=False):
            logits = self.network(self.images.normalise(pixels))
            loss = F.cross_entropy(logits.float(), target, label_smoothing=self.recipe.smoothing)
        if not self.on_gpu:  # a graph writes each gradient anew
            self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.place += 1
        self.count += 1

    def advance(self) -> None:
        """Half an epoch; on a GPU it is only asked for."""
        with torch.cuda.stream(self.stream) if self.stream else nullcontext():
            for _ in range(min(self.steps // 2 + 1, self.total - self.done)):
                if self.done % self.steps == 0:
                    self.order.copy_(torch.randperm(len(self.order), device=self.order.device))
                    self.place.zero_()
                clean = self.done // self.steps >= math.ceil(self.recipe.epochs) - self.recipe.clean
                self.graphs[clean].replay() if self.on_gpu else self.step(clean)
                self.done += 1
            if self.stream:
                self.waiting.append(self.stream.record_event())

    @property
    def takes_more(self) -> bool:
        while self.waiting and self.waiting[0].query():
            self.waiting.pop(0)
        return self.done < self.total and len(self.waiting) < CHUNKS_AHEAD

    @property
    def is_over(self) -> bool:
        return self.done == self.total and not self.takes_more and not self.waiting

    @torch.no_grad()
    def result(self) -> dict[str, Any]:
        """Accuracy and NLL on the images held out."""
        held_out, network = self.images.held_out, self.network.eval()
        with torch.cuda.stream(self.stream) if self.stream else nullcontext():
            parts = held_out.images.split(2500)
            logits = torch.cat([network(self.images.normalise(part.float() / 255)).float() for part in parts])
            accuracy = (logits.argmax(dim=1) == held_out.target).double().mean().item()
            nll = F.cross_entropy(logits, held_out.target).item()
        return {
            "name": self.name,
            "accuracy": accuracy,
            "nll": nll,
            "epochs": self.done / self.steps,
            "seconds": round(time.monotonic() - self.started, 1),
            "parameters": sum(one.numel() for one in network.parameters()),
            "recipe": asdict(self.recipe),
        }


def _one_cycle(highest: float, steps: int, linear: bool) -> Iterator[float]:
    """The rates of torch's OneCycleLR, with a lower end: for all steps, and a few that warm a graph up."""

    def between(start: float, end: float, share: float) -> float:
        return end + (start - end) * (1 - share if linear else (1 + math.cos(math.pi * share)) / 2)

    rise = 0.3 * steps
    for step in range(steps + 8):
        if step < rise:
            yield between(highest / 25, highest, step / rise)
        else:
            yield between(highest, highest / 1e5, min(1.0, (step - rise) / (steps - rise)))


def trained(recipes: dict[str, Recipe], images: Images, at_once: int, seconds: float) -> Iterator[dict[str, Any]]:
    """The results, as they come; those that are cut off by the time are left out."""
    queue, running, end = [*recipes.items()], list[Training](), time.monotonic() + seconds
    while (queue or running) and time.monotonic() < end:
        while queue and len(running) < at_once:
            running.append(Training(*queue.pop(0), images))
        for training in [*running]:
            if training.takes_more:
                training.advance()
            elif training.is_over:
                yield training.result()
                running.remove(training)
        time.sleep(0.0005)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", help="recipes whose names begin so, with commas between them")
    parser.add_argument("--epochs", type=float, help="of each training, for a quick look (default: the recipe's own)")
    parser.add_argument("--seconds", type=float, default=math.inf, help="after which no result is waited for")
    parser.add_argument("--at-once", type=int, default=8, help="networks at a time on a GPU (default: 8)")
    parser.add_argument("--data", default=os.environ.get("DIGITS_DATA", "data"), help="MNIST's root")
    parser.add_argument("--out", type=Path, default=Path("logs/benchmarks"), help="folder of recipes.jsonl")
    arguments = parser.parse_args()
    wanted = tuple((arguments.only or "").split(","))
    recipes = {name: recipe for name, recipe in RECIPES.items() if name.startswith(wanted)}
    if arguments.epochs:
        recipes = {name: replace(recipe, epochs=arguments.epochs) for name, recipe in recipes.items()}
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    arguments.out.mkdir(parents=True, exist_ok=True)
    table = Table("recipe", "parameters", "accuracy", "NLL", "epochs", "s")
    at_once = arguments.at_once if device.type == "cuda" else 1
    with (arguments.out / "recipes.jsonl").open("a") as file:
        for found in trained(recipes, Images(arguments.data, device), at_once, arguments.seconds):
            file.write(json.dumps(found) + "\n")
            cells = (
                f"{found['accuracy']:.2%}",
                f"{found['nll']:.4f}",
                f"{found['epochs']:.1f}",
                f"{found['seconds']:.0f}",
            )
            table.add_row(found["name"], f"{found['parameters']:,}", *cells)
            print(" ".join((found["name"], *cells)), flush=True)
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
