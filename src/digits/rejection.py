"""A gate beside the network: how likely an image is one of the classes at all. It answers "no digit" to a letter.

A softmax divides certainty among the classes, whatever it is shown. The gate is a small network of its own, so that it
goes with any network and loss. It learns the data set's training images against strangers (`digits.strangers`): outlier
exposure, Hendrycks et al., https://arxiv.org/abs/1812.04606.
"""

import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Annotated

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from digits import hardware
from digits.data.images import TensorImages
from digits.data.splits import Splits
from digits.gate import SIDE, Gate, known_logits
from digits.glyphs import by_a_pen, can_be_typed, character_images, typed
from digits.model_facts import ModelFacts
from digits.strangers import Strangers
from digits.validation import Settings

BATCH = 64
MOST_REJECTED = 1 / 2000  # of the images of the classes
UNSEEN = 10_000  # training images, at most, that are kept from it, to find out where to reject
EXPECTED = 0.15  # share of strangers among what people show
LARGEST = 2 * SIDE  # pixels of the images that it is trained on
FEWEST = 100  # images that it has not seen, to find out where to reject
SURE = 0.9  # a probability that people believe

log = logging.getLogger(__name__)


class GateSettings(Settings):
    """The keys of configs/rejection/default.yaml."""

    images: Annotated[int, Field(ge=1)] = (
        8_000  # of the classes, in each epoch; others in each as long as there are any
    )
    strangers: Annotated[int, Field(ge=1)] = 8_000  # that are drawn; each epoch varies them
    passes: Annotated[int, Field(ge=0)] = 5
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0


@dataclass(frozen=True)
class Fitted:
    """A gate and what was found about it.

    Args:
        gate: in evaluation mode.
        reject_below: an image that is known with a lower probability is rejected.
        report: `rejected`, a share of the images of the classes that it has not seen; of other strangers, `auroc` and
            the share `believed`, whose probability of being known reaches `SURE`; `images`, `strangers`, `seconds`.
    """

    gate: Gate
    reject_below: float
    report: dict[str, float]

    def __str__(self) -> str:
        found = self.report
        return (
            f"gate: of {found['images']:,} images that it has not seen, it rejects {found['rejected']:.2%}; it believes"
            f" {found['believed']:.1%} of {found['strangers']:,} new strangers (known with a probability of {SURE} or"
            f" more); AUROC {found['auroc']:.4f}; {found['seconds']} s"
        )


FitGate = Callable[[Splits, ModelFacts, torch.device], Fitted | None]


def fit_gate(
    splits: Splits,
    facts: ModelFacts,
    device: torch.device,
    settings: GateSettings,
) -> Fitted | None:
    """Trains a gate on images of the classes and strangers; the run's random numbers stay as they are.

    Args:
        splits: of the data set.
        facts: about its network.
        device: where to compute.
        settings: of its training.

    Returns:
        None where there are too few images to find out where to reject.
    """
    start, rng = time.perf_counter(), np.random.default_rng(settings.seed)
    images, strangers, epochs = settings.images, settings.strangers, settings.passes
    order = rng.permutation(len(splits.train))
    kept = 0 if len(splits.val) else len(order) // 10
    seen, unseen = np.split(order[: epochs * images + UNSEEN], [min(epochs * images, len(order) - kept)])
    if len(splits.val) + len(unseen) < FEWEST or not len(seen):
        log.info("no gate: there are too few images besides those to train on, to find out where to reject")
        return None
    form = facts.form
    if form.image_size > LARGEST:  # the gate looks at no more, and the strangers would fill the memory
        form = replace(form, image_size=LARGEST, fit=form.fit and round(form.fit * LARGEST / form.image_size))
    known = TensorImages(_reduced(splits.train, seen, form.image_size), splits.train.__getitems__(seen)[1])
    source = Strangers(known.images[:20_000].numpy(), facts.class_names, form)
    parts = [(source.draw(strangers, rng), np.full(strangers, len(facts.class_names)))]
    # Else a font, or the line of a drawn pen, would itself be a sign of a stranger.
    for draw in (typed, by_a_pen) if can_be_typed(facts.class_names) else ():
        parts.append(character_images(facts.class_names, images // 10, draw, form, source.images[:1000], rng))
    in_each = TensorImages(*(torch.from_numpy(np.concatenate(part)) for part in zip(*parts, strict=True)))
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(settings.seed)
        gate = Gate(facts.channels, len(facts.class_names)).to(memory_format=torch.channels_last).to(device)
        _train(gate.train(), known, in_each, images, epochs)
    new = torch.from_numpy(source.draw(max(200, strangers // 6), rng))
    val = _reduced(splits.val, np.arange(len(splits.val)), form.image_size)
    held_out = torch.cat([val, _reduced(splits.train, unseen, form.image_size)])
    reject_below, report = _calibrate(gate.eval(), held_out, new)
    return Fitted(gate.cpu(), reject_below, report | {"seconds": round(time.perf_counter() - start, 1)})


def _reduced(images: TensorImages, which: np.ndarray, side: int) -> Tensor:
    """These images (N, C, H, W), uint8, of a smaller size where they are larger: (N, C, side, side), uint8."""
    parts = []
    for some in np.array_split(which, -(-len(which) // 1000)) if len(which) else ():
        pixels = images.__getitems__(some)[0]
        if pixels.shape[-1] > side:
            pixels = F.interpolate(pixels.float(), (side, side), mode="area").round().byte()
        parts.append(pixels)
    return torch.cat(parts) if parts else torch.empty(0, dtype=torch.uint8)


def _train(gate: Gate, known: TensorImages, in_each: TensorImages, images: int, epochs: int) -> None:
    """Trains on the next `images` of the known ones in each epoch, and on all of those `in_each`."""
    device, images = next(gate.parameters()).device, min(images, len(known))
    steps = epochs * -(-(images + len(in_each)) // BATCH)
    optimizer = torch.optim.AdamW(gate.parameters(), weight_decay=0.01, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.003, total_steps=steps)
    half = hardware.resolve_precision("auto", device.type) == "bf16-mixed"
    for epoch in range(epochs):
        pixels, target = known.__getitems__(torch.arange(epoch * images, (epoch + 1) * images) % len(known))
        pixels, target = torch.cat([pixels, in_each.images]), torch.cat([target, in_each.target])
        for batch in torch.randperm(len(target)).split(BATCH):
            with torch.autocast(device.type, torch.bfloat16, enabled=half):
                logits = gate.classes(varied(pixels[batch].to(device)))
            loss = F.cross_entropy(logits.float(), target[batch].to(device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()


def varied(pixels: Tensor) -> Tensor:
    """Varies images (B, C, H, W) from 0 to 255: turned, moved, with broader or thinner strokes, blurred or faint."""
    images, count = pixels.float(), len(pixels)

    def between(low: float, high: float, share: float = 1.0) -> Tensor:
        chosen = torch.rand(count, device=pixels.device) < share
        return torch.where(chosen, low + (high - low) * torch.rand(count, device=pixels.device), 0)

    turn, shear, size = between(-0.15, 0.15, 0.6), between(-0.15, 0.15, 0.6), 1 + between(-0.1, 0.1, 0.6)
    right, down = between(-0.1, 0.1, 0.6), between(-0.1, 0.1, 0.6)
    rows = [
        torch.stack([turn.cos() * size, shear - turn.sin(), right]),
        torch.stack([turn.sin(), turn.cos() * size, down]),
    ]
    matrix = torch.stack(rows).permute(2, 0, 1)  # (B, 2, 3)
    grid = F.affine_grid(matrix, list(images.shape), align_corners=False)
    images = F.grid_sample(images, grid, padding_mode="border", align_corners=False)
    for share, most, other in (
        (0.3, 1.0, lambda x: F.max_pool2d(x, 3, 1, 1)),
        (0.2, 0.6, lambda x: -F.max_pool2d(-x, 3, 1, 1)),
        (0.2, 1.0, lambda x: F.avg_pool2d(x, 3, 1, 1)),
    ):
        images = images.lerp(other(images), between(0, most, share).view(-1, 1, 1, 1))
    return images * (1 - between(0, 0.4, 0.3)).view(-1, 1, 1, 1)


def _lowest(known: Tensor) -> Tensor:
    """The logit that all but `MOST_REJECTED` of the known images reach; of few images, by the slope of their tail."""
    ordered = known.sort().values
    if allowed := int(MOST_REJECTED * len(ordered)):
        return ordered[allowed]
    tail = ordered[: max(2, len(ordered) // 20)]
    return ordered[0] - (tail[-1] - tail.mean()) * math.log(1 / (MOST_REJECTED * len(ordered)))


def _calibrate(gate: Gate, known: Tensor, strange: Tensor) -> tuple[float, dict[str, float]]:
    """Scales a gate's logit so that it says how likely an image is known, where `EXPECTED` of them are strangers.

    Args:
        gate: trained.
        known: images of the classes that it has not seen.
        strange: strangers that it has not seen.

    Returns:
        what `Fitted` keeps.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import roc_auc_score

    logits = torch.cat([known_logits(gate, known), known_logits(gate, strange)])
    truth = np.repeat([1, 0], [len(known), len(strange)])
    fitted = LogisticRegression(class_weight="balanced").fit(logits.double().numpy()[:, None], truth)
    gate.scale.fill_(max(0.0, float(fitted.coef_[0, 0])))
    gate.shift.fill_(float(fitted.intercept_[0]) + math.log((1 - EXPECTED) / EXPECTED))
    logits = gate.scale.cpu() * logits + gate.shift.cpu()
    probability, new = logits[: len(known)].sigmoid(), logits[len(known) :].sigmoid()
    reject_below = min(0.5, _lowest(logits[: len(known)]).sigmoid().item())  # rather known than not: never rejected
    return reject_below, {
        "rejected": (probability < reject_below).double().mean().item(),
        "believed": (new >= SURE).double().mean().item(),
        "auroc": float(roc_auc_score(truth, logits)),
        "images": len(known),
        "strangers": len(strange),
    }
