"""Data: data sets, their files and splits, batches, and the LightningDataModule around them."""

from digits.data.module import DigitsDataModule

__all__ = ["DigitsDataModule"]
