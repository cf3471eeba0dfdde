"""How sure an answer is: a temperature, fitted on validation images, and the figures that say how honest it is."""

import logging
import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics.functional.classification import multiclass_calibration_error

from digits.classifier import Classifier
from digits.model_facts import TEMPERATURES
from digits.runs.processes import from_each_process

if TYPE_CHECKING:
    from digits.checkpoints import Checkpoint

log = logging.getLogger(__name__)

BINS = 15  # of the stated probability, equally wide
FIGURES = {"nll": "NLL", "brier": "Brier score", "ece": f"calibration error ({BINS} bins)"}


def fit_temperature(logits: Tensor, target: Tensor) -> float:
    """The number to divide logits by so that their softmax is least surprised by the targets.

    Source: Guo et al., On Calibration of Modern Neural Networks, https://arxiv.org/abs/1706.04599. As in Platt's
    scaling (1999), each target counts for (N + 1) / (N + 2) only: where every answer is right, the best temperature
    would else be 0, and every probability 100 %.

    Args:
        logits: (N, num_classes), of images that the network was not trained on.
        target: (N,).

    Returns:
        within `TEMPERATURES`; 1 where there is one class alone.
    """
    if logits.shape[1] == 1:
        return 1.0
    logits, doubt = logits.double(), 1 / (len(target) + 2)

    def surprise(log_temperature: float) -> float:
        return F.cross_entropy(logits / math.exp(log_temperature), target, label_smoothing=doubt).item()

    from scipy.optimize import minimize_scalar

    bounds = tuple(map(math.log, TEMPERATURES))
    found = math.exp(minimize_scalar(surprise, bounds=bounds, method="bounded", options={"xatol": 1e-4}).x)
    return min(max(found, TEMPERATURES[0]), TEMPERATURES[1])


def at_bound(temperature: float) -> bool:
    """Whether a fit ended where it may not go on: the logits are of no scale that a temperature could put right."""
    return not TEMPERATURES[0] * 1.01 < temperature < TEMPERATURES[1] / 1.01


@torch.inference_mode()
def validation_logits(classifier: Classifier, data: Any, device: torch.device) -> tuple[Tensor, Tensor]:
    """A network's logits (N, num_classes) for the validation images of all processes, and their targets (N,).

    Args:
        classifier: its network moves to the device, and into evaluation mode.
        data: with validation images.
        device: where to compute.
    """
    classifier.to(device).eval()
    found = []
    for batch in data.val_dataloader():
        moved = data.transfer_batch_to_device(data.on_before_batch_transfer(batch, 0), device, 0)
        images, target = data.on_after_batch_transfer(moved, 0)
        found.append((classifier.predict_step((images, target), 0).cpu(), target.cpu()))
    shares = from_each_process(tuple(torch.cat(parts) for parts in zip(*found, strict=True)))
    logits, target = (torch.cat(parts) for parts in zip(*shares, strict=True))
    return logits, target


def calibrate_as_trained(classifier: Classifier, checkpoints: Sequence["Checkpoint"], data: Any, device: Any) -> None:
    """Gives a classifier the temperature and the gate of its checkpoint.

    Of several as one, the temperature is fitted on their validation images, and there is no gate. The members' own
    temperatures are not used: the mean of their probabilities is less sure than they are.

    Args:
        classifier: with the network of the checkpoints.
        checkpoints: one, or several whose mean the network gives.
        data: as the checkpoints restored it.
        device: where to compute.
    """
    kept = [{**one.settings["data"], "seen": None, "root": None} for one in checkpoints]
    if len(checkpoints) == 1:
        one = checkpoints[0]
        classifier.temperature, classifier.gate = one.confidence.temperature, one.gate()
        classifier.reject_below = one.confidence.reject_below
    elif len(data.splits.val) and data.dataset == kept[0]["dataset"] and all(one == kept[0] for one in kept):
        logits, target = validation_logits(classifier, data, device)
        classifier.temperature = fit_temperature(logits, target)
        log.info("calibrated: together, on the %s validation images that they share", f"{len(target):,}")
    if classifier.temperature is None:
        reason = "they share no validation images" if len(checkpoints) > 1 else "its checkpoint has no temperature"
        log.info("not calibrated: %s", reason)


def figures_of(probabilities: Tensor, target: Tensor) -> dict[str, float]:
    """What stated probabilities are worth, by the names in `FIGURES`; the lower, the better.

    `nll`: the mean of -log p of the true class. `brier`: the mean over images of the squared errors, summed over the
    classes: from 0 to 2. `ece`: the mean difference between stated probability and share of right answers, over `BINS`
    bins, weighted by their images.

    Args:
        probabilities: (N, num_classes).
        target: (N,).
    """
    probabilities = probabilities.double()
    wanted = F.one_hot(target, probabilities.shape[1])
    of_target = probabilities.gather(1, target[:, None]).clamp(min=torch.finfo(torch.float64).tiny)
    error = multiclass_calibration_error(probabilities, target, probabilities.shape[1], BINS) if len(target) else 0.0
    return {
        "nll": float(-of_target.log().mean()),
        "brier": float((probabilities - wanted).square().sum(dim=1).mean()),
        "ece": float(error),
    }


def bins_of(probabilities: np.ndarray, target: np.ndarray) -> Iterable[tuple[int, float, int]]:
    """For each bin of the stated probability that has images: how many, the mean of what is stated, how many are right.

    Args:
        probabilities: (N, num_classes).
        target: (N,).
    """
    stated, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == target
    which = np.clip(np.ceil(stated * BINS).astype(int) - 1, 0, BINS - 1)
    for one in np.unique(which):
        inside = which == one
        yield int(inside.sum()), float(stated[inside].mean()), int(right[inside].sum())
