"""Losses: from logits and targets to a number to minimise. Any module with the same forward will do."""

from collections.abc import Sequence
from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from digits.validation import checked_arguments

Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]


def _as_weight(class_weights: Sequence[Weight] | None) -> Tensor | None:
    return None if class_weights is None else torch.tensor(class_weights).float()


class Focal(nn.NLLLoss):
    """Cross-entropy times (1 - p)^gamma, p being the probability of the target: what is known already counts less.

    Source: Lin et al., Focal Loss for Dense Object Detection, https://arxiv.org/abs/1708.02002, for several classes.

    Args:
        gamma: 0 gives cross-entropy.
        class_weights: a factor for the images of each class.

    Raises:
        ValueError: for an argument out of range.
    """

    @checked_arguments
    def __init__(
        self,
        gamma: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 2.0,
        class_weights: Sequence[Weight] | None = None,
    ) -> None:
        super().__init__(_as_weight(class_weights))
        self.gamma = gamma

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Maps logits (B, C) and classes (B,), or their probabilities (B, C), to the loss of each image (B,)."""
        log_probabilities = logits.float().log_softmax(dim=1)
        unsure = (1 - log_probabilities.exp()).clamp(min=torch.finfo(torch.float32).eps)  # 0 has no slope for gamma < 1
        wanted = F.one_hot(target, logits.shape[1]) if target.ndim == 1 else target
        if self.weight is not None:
            wanted = wanted * self.weight
        return -(wanted * unsure**self.gamma * log_probabilities).sum(dim=1)


class CrossEntropy(nn.CrossEntropyLoss):
    """Cross-entropy, smoothed in training.

    With `class_weights`, the loss of a batch is the mean of the weighted losses. (torch divides by the sum of the
    batch's weights instead, so that the same image would count more in one batch than in another.)

    Args:
        label_smoothing: share, in [0, 1], of each target that is spread over all classes, in training only.
        class_weights: a factor for the images of each class.

    Raises:
        ValueError: for an argument out of range.
    """

    @checked_arguments
    def __init__(
        self,
        label_smoothing: Annotated[float, Field(ge=0, le=1)] = 0.0,
        class_weights: Sequence[Weight] | None = None,
    ) -> None:
        super().__init__(_as_weight(class_weights), label_smoothing=label_smoothing)

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Maps logits (B, C) and classes (B,), or their probabilities (B, C), to the loss of each image (B,).

        In training it is the mean over the images.
        """
        smoothing = self.label_smoothing if self.training else 0.0
        reduction = "mean" if self.training and self.weight is None else "none"
        loss = F.cross_entropy(logits, target, self.weight, label_smoothing=smoothing, reduction=reduction)
        return loss.mean() if self.training else loss
