"""Handwritten-digit experiments: PyTorch Lightning modules composed by Hydra configs."""

__version__ = "0.1.0"
