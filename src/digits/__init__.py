"""Handwritten-digit experiments: PyTorch Lightning modules composed by Hydra configs."""

import os
from typing import TYPE_CHECKING, Any

# Set before torch loads libgomp, whose threads spin while they wait: beside another busy process, training would be 3
# times slower or more (docs/measurements.md). The user's own choice counts.
if not {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"} & os.environ.keys():
    os.environ["GOMP_SPINCOUNT"] = "1000"

if TYPE_CHECKING:
    from digits.pictures.reader import load_classifier

__all__ = ["load_classifier"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name in __all__:  # not before somebody asks: --help should not wait for numpy and the rest
        from digits.pictures import reader

        return getattr(reader, name)
    raise AttributeError(f"module {__name__} has no attribute {name}")
