"""Settings of the data: those that a run is started with, and those that a checkpoint keeps."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, JsonValue, NonNegativeInt, PositiveInt, model_validator

from digits.data.datasets import named
from digits.model_facts import LARGEST_IMAGE, Centre, Fit, Mean, Std
from digits.validation import AsList, Seed, Settings, as_typed


def _as_text(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else value


Size = Annotated[float, Field(ge=0, allow_inf_nan=False)]  # images, or a fraction of all that are there to be cut
Folds = Annotated[int, Field(ge=2)]
Pixels = Annotated[int, Field(ge=1, le=LARGEST_IMAGE)]
Channels = Literal[1, 3]  # grey, RGB
Means = Annotated[list[Mean], Field(min_length=1)]  # one, or one for each channel
Stds = Annotated[list[Std], Field(min_length=1)]


class _Kept(Settings):
    """What a run's settings and a checkpoint's have in common."""

    dataset: str
    subset: str | None
    split_seed: Seed
    test_size: Size | None
    folds: Folds | None
    fold: NonNegativeInt
    channels: Channels
    mean: Means | None
    std: Stds | None

    @model_validator(mode="after")
    def _go_together(self) -> Self:
        for key, advice in self._problems():
            raise ValueError(f"{key}={as_typed(getattr(self, key))}: {advice}")
        return self

    def _problems(self) -> Iterator[tuple[str, str]]:
        """Fields whose values are wrong beside others, each with the way out."""
        if self.folds is None and self.fold:
            yield "fold", "there are no folds; give data.folds too"
        if self.folds is not None and self.fold >= self.folds:
            yield "fold", f"with data.folds={self.folds}, it lies between 0 and {self.folds - 1}"
        for key in ("mean", "std"):
            if len(getattr(self, key) or [0]) not in (1, self.channels):
                yield key, f"give one number, or one for each of {self.channels} channels"


class DataSettings(_Kept):
    """What `DigitsDataModule` is made with; the comments of configs/data/*.yaml say more of each."""

    dataset: str = "mnist"  # a name in `digits.data.datasets`, or the dotted path of one's own class
    root: Annotated[str | None, BeforeValidator(_as_text)] = "data"  # folder that holds, or will hold, its files
    subset: str | None = None  # of emnist
    offline_fallback: bool | None = None  # None: for a data set that has a stand-in
    batch_size: PositiveInt = 100
    eval_batch_size: PositiveInt = 250
    num_workers: NonNegativeInt = 0
    on_device: bool | None = None  # None: where a CUDA device trains, no workers load, and a quarter of it has room
    pin_memory: bool | None = None  # None: where there is a CUDA device
    persistent_workers: bool = True
    seed: Seed = 0  # of the order of the training images, which depends on it and the epoch alone
    split_seed: Seed = 0  # apart from the run's seed, so that runs stay comparable
    val_size: Size | None = None  # 0: none; None: a tenth, at most 5,000 images
    test_size: Size | None = None  # where test images have to be cut; None: as for `val_size`
    folds: Folds | None = None
    fold: NonNegativeInt = 0
    typed: NonNegativeInt = 0  # images of the classes' names in fonts, added to the training images
    image_size: Pixels | None = 28  # of an image_folder: height and width to bring its images to; None: theirs
    channels: Channels = 1  # of an image_folder: to bring its images to
    # Subtracted from the pixels in [0, 1], and what these are then divided by; None: those of the training split.
    mean: Annotated[Means | None, AsList] = Field([0.1307])
    std: Annotated[Stds | None, AsList] = Field([0.3081])

    def _problems(self) -> Iterator[tuple[str, str]]:
        data_set = named(self.dataset)
        if not self.root:
            once = "" if data_set.own_root else ", or will hold,"
            further = "" if data_set.own_root else "; DIGITS_DATA names it too"
            yield "root", f"give the folder that holds{once} {data_set.holds}{further}"
        if self.channels != 1 and not data_set.own_root:
            yield "channels", f"the images of {self.dataset} are grey; leave it 1"
        if data_set.subsets and self.subset not in data_set.subsets:
            yield "subset", f"there are {', '.join(data_set.subsets)}"
        if self.subset is not None and not data_set.subsets:
            yield "subset", f"{self.dataset} has no subsets; leave it null"
        if self.offline_fallback and not data_set.stand_in:
            yield "offline_fallback", f"{self.dataset} has no stand-in; only mnist has one"
        if self.on_device and self.num_workers:
            yield "on_device", "worker processes have no images of a device; give data.num_workers=0"
        for key in ("val_size", "test_size"):
            size = getattr(self, key) or 0
            if size > 1 and size % 1:
                yield key, "give a number of images, or a fraction below 1"
        if self.test_size is not None and data_set.has_test_images and not data_set.own_root:
            yield "test_size", f"{self.dataset} has its own test images; leave it null"
        yield from super()._problems()


class TrainedData(_Kept):
    """What a checkpoint keeps of its data: enough to load the same images again, in the same form and splits.

    A checkpoint comes from a file, so nothing in it is taken on trust.
    """

    root: str
    val_size: NonNegativeInt
    image_size: Pixels
    mean: Means
    std: Stds
    class_names: Annotated[list[str], Field(min_length=1)]  # by the class's number
    module: dict[str, JsonValue] | None  # of a data module of one's own: `_target_` and arguments but `root`
    fit: Fit  # this and the next two: the form of the images, as of `DataSet`
    centre: Centre
    light_on_dark: bool
    fingerprint: str  # of all that the data set held
    seen: list[str] | None  # a hash of each image of training and validation, where a folder of images may change
