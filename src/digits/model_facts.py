"""What has to be known of a network to use it; a checkpoint and an exported model carry it along."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Annotated, Any, Literal, Self

from pydantic import ConfigDict, Field, TypeAdapter, model_validator
from pydantic.dataclasses import dataclass

from digits.data.dataset import Form

DIGITS = [str(digit) for digit in range(10)]
LARGEST_IMAGE = 4096  # pixels of a side: a file must not make anybody fill the memory with one image
TEMPERATURES = (0.05, 20.0)  # lowest and highest: beyond, a probability would say nothing but 0, 1 or 1/classes

Mean = Annotated[float, Field(allow_inf_nan=False)]
Std = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Fit = Annotated[float, Field(gt=0, le=1)] | None
Centre = Literal["mass", "box"] | None
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Temperature = Annotated[float, Field(ge=TEMPERATURES[0], le=TEMPERATURES[1], allow_inf_nan=False)]


@dataclass(frozen=True, config=ConfigDict(strict=True, extra="forbid"))
class ModelFacts:
    """What has to be known of a network to use it. It may come from a file of anybody's, so that it is checked.

    Args:
        dataset: the name of the data set that it was trained on.
        class_names: by the class's number.
        image_size: height and width of its images, in pixels.
        channels: of its images.
        mean: of each channel, or one of all, subtracted from the pixels in [0, 1].
        std: of each channel, or one of all, by which they are then divided.
        fit, centre, light_on_dark: the form that pictures are brought into, as of `DataSet`.
        temperature: by which its logits are divided for calibrated probabilities; 1: they are not calibrated.
        reject_below: the probability of being one of the classes at all, below which an image is rejected; 0: none is.

    Raises:
        pydantic.ValidationError: for a value of another kind or out of range.
    """

    dataset: str
    class_names: Annotated[list[str], Field(min_length=1)]
    image_size: Annotated[int, Field(ge=1, le=LARGEST_IMAGE)]
    channels: Literal[1, 3]
    mean: list[Mean]
    std: list[Std]
    fit: Fit
    centre: Centre
    light_on_dark: bool
    temperature: Temperature = 1.0
    reject_below: Share = 0.0

    @model_validator(mode="after")
    def _one_value_for_each_channel(self) -> Self:
        if not {len(self.mean), len(self.std)} <= {1, self.channels}:
            raise ValueError(f"mean={self.mean} std={self.std}: give one value, or one for each channel")
        return self

    @classmethod
    def of(cls, data: Mapping[str, Any]) -> Self:
        """From the settings of the data that a checkpoint carries."""
        return cls(**{field.name: data[field.name] for field in fields(cls) if field.name in data})

    @classmethod
    def from_json(cls, text: str) -> Self:
        return TypeAdapter(cls).validate_json(text)

    @property
    def form(self) -> Form:
        """The form of its images, for `digits.pictures.normal_form`."""
        fit = round(self.image_size * self.fit) if self.fit else None
        return Form(self.image_size, self.channels, fit, self.centre, self.light_on_dark)

    @property
    def noun(self) -> str:
        """What a class is, for the words around an answer."""
        return "digit" if self.are_digits else "character" if max(map(len, self.class_names)) == 1 else "class"

    @property
    def are_digits(self) -> bool:
        """Whether the classes are the digits, for the words around an answer."""
        return self.class_names == DIGITS

    def to_json(self) -> str:
        return TypeAdapter(type(self)).dump_json(self).decode()
