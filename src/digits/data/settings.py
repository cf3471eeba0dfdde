"""Settings of the data: those that a run is started with, and those that a checkpoint keeps."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BeforeValidator, Field, model_validator

from digits.data.datasets import data_sets
from digits.model_facts import LARGEST_IMAGE, Mean, Std
from digits.validation import Settings, as_typed


def _as_list(value: Any) -> Any:
    """A single number stands for one for each channel."""
    return value if value is None or isinstance(value, list) else [value]


def _as_text(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else value


Size = Annotated[float, Field(ge=0, allow_inf_nan=False)]  # images, or a fraction of them
Numbers = Annotated[list[Mean], Field(min_length=1)]
PositiveNumbers = Annotated[list[Std], Field(min_length=1)]


class _Kept(Settings):
    """What a run's settings and a checkpoint's have in common."""

    dataset: str
    subset: str | None
    split_seed: Annotated[int, Field(ge=0, lt=2**32)]
    test_size: Size | None
    folds: Annotated[int, Field(ge=2)] | None
    fold: Annotated[int, Field(ge=0)]
    channels: int

    @model_validator(mode="after")
    def _go_together(self) -> Self:
        for key, advice in self._problems():
            raise ValueError(f"{key}={as_typed(getattr(self, key))}: {advice}")
        return self

    def _problems(self) -> Iterator[tuple[str, str]]:
        """Fields whose values are wrong beside others, each with the way out."""
        if self.channels not in (1, 3):
            yield "channels", "there are 1 (grey) and 3 (RGB)"
        if self.folds is None and self.fold:
            yield "fold", "there are no folds; give data.folds too"
        if self.folds is not None and self.fold >= self.folds:
            yield "fold", f"with data.folds={self.folds}, it lies between 0 and {self.folds - 1}"


class DataSettings(_Kept):
    """What `DigitsDataModule` is made with; see there."""

    root: Annotated[str | None, BeforeValidator(_as_text)]
    offline_fallback: bool | None
    seed: Annotated[int, Field(ge=0, lt=2**32)]
    batch_size: Annotated[int, Field(ge=1)]
    eval_batch_size: Annotated[int, Field(ge=1)]
    num_workers: Annotated[int, Field(ge=0)]
    pin_memory: bool | None
    persistent_workers: bool
    val_size: Size | None
    image_size: Annotated[int, Field(ge=1, le=LARGEST_IMAGE)] | None
    mean: Annotated[Numbers | None, BeforeValidator(_as_list)]
    std: Annotated[PositiveNumbers | None, BeforeValidator(_as_list)]

    def _problems(self) -> Iterator[tuple[str, str]]:
        known = data_sets()
        data_set = known.get(self.dataset)
        if data_set is None:
            yield "dataset", f"there are {', '.join(known)}"
            return
        if not self.root and data_set.own_root:
            yield "root", f"give the folder that holds {data_set.holds}"
        if not self.root:
            yield "root", f"give the folder that holds, or will hold, {data_set.holds}; DIGITS_DATA names it too"
        if data_set.subsets and self.subset not in data_set.subsets:
            yield "subset", f"there are {', '.join(data_set.subsets)}"
        if self.subset is not None and not data_set.subsets:
            yield "subset", f"{self.dataset} has no subsets; leave it null"
        if self.offline_fallback and not data_set.stand_in:
            yield "offline_fallback", f"{self.dataset} has no stand-in; only mnist has one"
        for name in ("val_size", "test_size"):
            size = getattr(self, name)
            if size is not None and size > 1 and size % 1:
                yield name, "give a number of images, or a fraction below 1"
        if self.test_size is not None and data_set.has_test_images:
            yield "test_size", f"{self.dataset} has its own test images; leave it null"
        yield from super()._problems()


class TrainedData(_Kept):
    """What a checkpoint keeps of its data: enough to load the same images again, in the same form and splits.

    All but the last three are arguments of `DigitsDataModule`. A checkpoint comes from a file, so nothing in it is
    taken on trust: `digits.validation.problem_of(TrainedData, content, "data")`.

    Args:
        class_names: by the class's number.
        fingerprint: of all that the data set held; None in checkpoints of older versions.
        seen: a hash of each image of training and validation, where the data set is a folder that may change.
    """

    root: str
    val_size: Annotated[int, Field(ge=0)]
    image_size: Annotated[int, Field(ge=1, le=LARGEST_IMAGE)]
    mean: Numbers
    std: PositiveNumbers
    class_names: Annotated[list[str], Field(min_length=1)]
    fingerprint: str | None = None
    seen: list[str] | None = None

    def _problems(self) -> Iterator[tuple[str, str]]:
        for name in ("mean", "std"):
            if len(getattr(self, name)) not in (1, self.channels):
                yield name, f"one number is expected, or one for each of {self.channels} channels"
        yield from super()._problems()
