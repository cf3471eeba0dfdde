"""Handwritten-digit experiments: PyTorch Lightning modules composed by Hydra configs."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from digits.pictures.reader import load_classifier

__all__ = ["load_classifier"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name in __all__:  # not before somebody asks: --help should not wait for numpy and the rest
        from digits.pictures import reader

        return getattr(reader, name)
    raise AttributeError(f"module {__name__} has no attribute {name}")
