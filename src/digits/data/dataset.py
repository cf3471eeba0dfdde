"""What a data set is: where its images come from, and all that has to be known of them. Imports no torch."""

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

if TYPE_CHECKING:
    from digits.data.images import Loaded


@dataclass(frozen=True)
class Form:
    """How a data set has its images."""

    image_size: int  # height and width, in pixels
    channels: int  # 1 (grey) or 3 (RGB)
    fit: int | None  # side of the square that the digit's box just fits into, in pixels; None: no normal form is known
    centre: Literal["mass", "box"] | None  # what lies in its middle: the digit's mass or its box; None with `fit`
    light_on_dark: bool  # whether its pictures are


@dataclass(frozen=True)
class DataSet:
    """A data set at its place on disk. Each subclass is one; `data.dataset=<name>` chooses it.

    One of your own needs a `name` and `load`; `data.dataset=mypackage.data.Rings` chooses it.
    """

    name: ClassVar[str]
    description: ClassVar[str] = ""  # what its images show, for a sentence such as "It was shown ..."
    holds: ClassVar[str] = "its files"  # what `root` holds
    own_root: ClassVar[bool] = False  # whether `root` is a folder of the user's, and not the one for all data sets
    subsets: ClassVar[tuple[str, ...]] = ()
    has_test_images: ClassVar[bool] = True  # official ones; else `test` is cut from the rest
    corrected: ClassVar[Mapping[int, int]] = {}  # of test images with a wrong label: their place, the right class
    within: ClassVar[tuple[str, ...]] = ()  # data sets whose training images include all of its images
    stand_in: ClassVar[str | None] = None  # what to load in its place where its files cannot be had

    # What its images look like: pictures are brought into this form before they are read.
    fit: ClassVar[float | None] = None  # side of the square that a digit's box just fits into, as a share of the image
    centre: ClassVar[Literal["mass", "box"] | None] = None  # what lies in the middle; None with `fit`
    light_on_dark: ClassVar[bool] = False

    root: Path = Path("data")  # folder that holds, or will hold, its files
    subset: str | None = None  # one of `subsets`, if it has any
    image_size: int | None = None  # height and width in pixels to bring images to that differ; None: as they are
    channels: int = 1  # to bring images to that differ: 1 (grey) or 3 (RGB)

    @property
    def title(self) -> str:
        """What the images are: accuracies on data of different titles do not compare."""
        return f"{self.name} {self.subset}" if self.subset else self.name

    @property
    def announced(self) -> dict[str, int] | None:
        """Its `in_channels`, `num_classes` and `image_size`; None where they are not known before it is read."""
        return None

    def fetch(self) -> None:
        """Downloads what is missing or damaged, where it can be downloaded."""

    @abstractmethod
    def load(self) -> "Loaded":
        """Its images, in the order of its files."""


def data_sets() -> dict[str, type[DataSet]]:
    """Every data set of this project that has been imported, by name."""
    known = [kind for kind in _subclasses(DataSet) if "name" in vars(kind)]  # type: ignore[type-abstract]
    return {kind.name: kind for kind in known if kind.__module__.startswith("digits.")}


def _subclasses(kind: type[DataSet]) -> Iterator[type[DataSet]]:
    for subclass in kind.__subclasses__():
        yield subclass
        yield from _subclasses(subclass)
