"""Data: data sets, their files and splits, batches, and the LightningDataModule around them."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from digits.data.module import DigitsDataModule

__all__ = ["DigitsDataModule"]


def __getattr__(name: str) -> Any:
    if name in __all__:  # lazily: what is known of a data set is read without torch and Lightning, as by digits.predict
        from digits.data import module

        return getattr(module, name)
    raise AttributeError(f"module {__name__} has no attribute {name}")
