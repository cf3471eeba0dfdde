"""Pixels as pictures, and pictures as text for a page."""

import base64
import io
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from PIL import Image


def as_picture(pixels: np.ndarray) -> "Image.Image":
    """Pixels, uint8 of shape (C, H, W) with one or three channels, as a Pillow image."""
    from PIL import Image

    return Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0))


def data_url(picture: "Image.Image", kind: str) -> str:
    """A picture as a PNG or a JPEG in a data URL."""
    file = io.BytesIO()
    picture.save(file, kind)
    return f"data:image/{kind.lower()};base64," + base64.b64encode(file.getvalue()).decode()
