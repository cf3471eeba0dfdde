"""What has to be known of a network to use it; a checkpoint and an exported model carry it along."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Self

DIGITS = [str(digit) for digit in range(10)]


@dataclass(frozen=True)
class ModelFacts:
    """What has to be known of a network to use it.

    Args:
        dataset: the data set that it was trained on, which decides how pictures are brought into its form.
        class_names: by the class's number.
        image_size: height and width of its images, in pixels.
        channels: of its images.
        mean: of each channel, subtracted from the pixels in [0, 1].
        std: of each channel, by which they are then divided.
    """

    dataset: str
    class_names: list[str]
    image_size: int
    channels: int
    mean: list[float]
    std: list[float]

    @classmethod
    def of(cls, data: Mapping[str, Any]) -> Self:
        """From the settings of the data that a checkpoint carries."""
        return cls(**{field.name: data[field.name] for field in fields(cls)})

    @property
    def are_digits(self) -> bool:
        """Whether the classes are the digits, for the words around an answer."""
        return self.class_names == DIGITS

    def to_json(self) -> str:
        return json.dumps(asdict(self))
