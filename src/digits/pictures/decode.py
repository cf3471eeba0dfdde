"""Pictures as people have them: files of several formats, depths and modes, decoded in one place."""

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from digits.errors import UserError

# A file's path, a file's bytes, a Pillow image, or an array: uint8 of shape (H, W), (H, W, 3) or (H, W, 4).
Picture = str | Path | bytes | Image.Image | np.ndarray

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF")
IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff"}  # of the files that a folder is read for
MAX_PIXELS = 100_000_000
TOO_LARGE = f"more than {MAX_PIXELS // 1_000_000} megapixels. Make it smaller"
UNKNOWN = "no picture of a known format, or an empty file. Give a PNG, JPEG, WebP, BMP or TIFF"
STRIP_ROWS = 128
# Of the longer side. What has twice as many or more is reduced: a digit needs no more, and a photograph takes seconds.
ENOUGH_PIXELS = 1500
ORIGINAL_SIZE = "original_size"  # in a picture's `info`


class PictureError(UserError):
    """A picture that cannot be read."""


def read_picture(picture: Picture) -> Image.Image:
    """Decodes a picture: upright, in mode L or RGB with 8 bits, its transparent parts filled such that the ink shows.

    A large one is reduced; its `info["original_size"]` then holds the width and height that it had.

    Raises:
        PictureError: if it is none, damaged, of several frames, or of more than 100 megapixels.
    """
    with _one_line_errors(str(picture) if isinstance(picture, str | Path) else "the picture"):
        match picture:
            case str() | Path():
                return _read_file(Path(picture).expanduser())
            case bytes():
                return _read_file(io.BytesIO(picture))
            case np.ndarray(dtype=np.uint8) if _is_picture(picture.shape):
                picture = Image.fromarray(picture)
        return _plain(ImageOps.exif_transpose(_checked(picture)))


def _is_picture(shape: tuple[int, ...]) -> bool:
    return 0 not in shape and (len(shape) == 2 or (len(shape) == 3 and shape[2] in (3, 4)))


@contextmanager
def _one_line_errors(name: str) -> Iterator[None]:
    """Turns whatever a decoder fails with into a PictureError of one line that begins with the picture's name."""
    try:
        yield
    except Exception as error:  # a damaged file can break a decoder anywhere
        match error:
            case PictureError():
                reason = str(error)
            case Image.DecompressionBombError():
                reason = TOO_LARGE
            case UnidentifiedImageError():
                reason = UNKNOWN
            case OSError(filename=str(), strerror=str(reason)):  # the file system's, no decoder's
                pass
            case _:
                said = " ".join(str(error).split()) or type(error).__name__
                reason = f"no picture, or a damaged one ({said}). Give another"
        raise PictureError(f"{name}: {reason}") from error


def _read_file(file: Path | io.BytesIO) -> Image.Image:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # an error instead, where it is too large
        opened = Image.open(file, formats=FORMATS)  # of other formats, some call another program
    with opened as image:
        size = _checked(image).size
        factor = _factor(size)
        width, height = (max(1, side // factor) for side in size)
        image.draft(None, (width, height))  # a JPEG need not be decoded in full
        turned = image.getexif().get(ExifTags.Base.Orientation, 1) >= 5
        ImageOps.exif_transpose(image, in_place=True)
        return _plain(image, size[::-1] if turned else size)


def _checked(image: Any) -> Image.Image:
    """The image itself, if its header says nothing for which it should not be decoded at all.

    Raises:
        PictureError: for what is no image, more pixels than a photo has, several frames, or pixels that are fractions.
    """
    problem, frames = None, getattr(image, "n_frames", 1)
    if not isinstance(image, Image.Image):
        array = isinstance(image, np.ndarray)
        what = f"an array of {image.dtype}, shape {image.shape}" if array else f"a {type(image).__name__}"
        problem = f"{what}. Give a path, bytes, a Pillow image or an array: uint8, (H, W), (H, W, 3 or 4)"
    elif image.mode == "F":
        problem = "pixels with a fraction have no known range. Save it with 8 bits"
    elif image.width * image.height > MAX_PIXELS:
        problem = TOO_LARGE
    elif frames > 1 and image.format != "MPO":  # a telephone's JPEG with a preview behind it
        problem = f"a {image.format} of {frames} frames or pages. Give one with a single one"
    if problem:
        raise PictureError(problem)
    return image


def _plain(image: Image.Image, original_size: tuple[int, int] | None = None) -> Image.Image:
    """An upright image in mode L or RGB with 8 bits, reduced if it is large."""
    original_size = original_size or image.size
    transparent, factor = image.has_transparency_data, _factor(image.size)
    # In strips: of a large picture in whole, each conversion would take some hundred megabytes more.
    height = factor * STRIP_ROWS
    strips = []
    for top in range(0, image.height, height):
        strip = _eight_bits(image.crop((0, top, image.width, min(image.height, top + height))))
        if transparent:
            strip = strip.convert("RGBA")
        elif strip.mode not in ("L", "RGB"):
            strip = strip.convert("L" if strip.mode == "1" else "RGB")
        strips.append(strip.reduce(factor))
    plain = Image.new(strips[0].mode, (strips[0].width, sum(strip.height for strip in strips)))
    for i, strip in enumerate(strips):
        plain.paste(strip, (0, i * STRIP_ROWS))
    if transparent:
        plain = Image.alpha_composite(Image.new("RGBA", plain.size, _ground(plain)), plain).convert("RGB")
    plain.info = {} if plain.size == original_size else {ORIGINAL_SIZE: original_size}
    return plain


def _factor(size: tuple[int, int]) -> int:
    return max(1, max(size) // ENOUGH_PIXELS)


def _eight_bits(image: Image.Image) -> Image.Image:
    """The image with 8 bits a channel."""
    if image.mode.startswith("I"):  # grey with 16 bits, in one of Pillow's several modes for it
        values = np.asarray(image)
        return Image.fromarray((values.clip(0, 2**16 - 1) >> 8).astype(np.uint8))
    return image


def _ground(image: Image.Image) -> str:
    """White or black, whichever shows the ink of an image in mode RGBA. A page has its own contrast.

    A page is what covers more than half of the picture and has light and dark in it.
    """
    grey, alpha = np.asarray(image.convert("RGB").convert("L")), np.asarray(image.getchannel("A"))
    seen = grey[alpha > 127] if (alpha > 127).any() else grey
    dark = np.median(seen) < 128
    page = (alpha > 127).mean() > 0.5 and np.ptp(np.percentile(seen, [1, 99])) > 64
    return "white" if dark != page else "black"


def fit_square(image: Image.Image, size: int) -> np.ndarray:
    """Scales an image, with antialiasing, to fit a square. Its edge is repeated where its shape leaves the square free.

    Args:
        image: in mode L or RGB.
        size: of the square, in pixels.

    Returns:
        uint8 of shape (C, size, size).
    """
    if image.size != (size, size):
        scale = size / max(image.size)
        image = image.resize([max(1, round(side * scale)) for side in image.size], Image.Resampling.BILINEAR)
    pixels = np.atleast_3d(np.asarray(image)).transpose(2, 0, 1)
    free = [size - side for side in pixels.shape[1:]]
    return np.pad(pixels, [(0, 0), *((f // 2, f - f // 2) for f in free)], mode="edge")
