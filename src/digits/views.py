"""Test-time augmentation: for an image that a network is unsure of, the mean answer to views of it counts."""

from itertools import product
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from digits.validation import Settings

if TYPE_CHECKING:
    from torch import nn

    from digits.model_facts import ModelFacts

View = tuple[int, int, float]  # shift to the right and down in pixels, turn in degrees
STEPS = (-1, 0, 1)
VIEWS: dict[str, list[View]] = {
    "shifts": [(x, y, 0.0) for x, y in product(STEPS, STEPS)],
    "turns": [(0, 0, 5.0 * step) for step in STEPS],
    "shifts_and_turns": [(x, y, 5.0 * step) for x, y, step in product(STEPS, STEPS, STEPS)],
}


class TtaSettings(Settings):
    """The keys `tta` and `tta_below` of configs/eval.yaml, predict.yaml and export.yaml."""

    tta: Literal["shifts", "turns", "shifts_and_turns"] | None = None
    tta_below: Annotated[float, Field(gt=0, le=1)] = 0.99

    def applied(self, network: "nn.Module", facts: "ModelFacts") -> "nn.Module":
        """A network with its views; itself without any. Its own temperature decides what it is unsure of."""
        if self.tta is None:
            return network
        from digits.networks import AveragedViews  # here, as torch takes seconds

        return AveragedViews(network, VIEWS[self.tta], self.tta_below, facts.temperature)
