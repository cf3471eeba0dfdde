"""Pictures as people have them: files of several formats, depths and modes, decoded in one place."""

import io
import math
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from digits.errors import UserError

# A file's path, a file's bytes, a Pillow image, or an array: uint8 of shape (H, W), (H, W, 3) or (H, W, 4).
Picture = str | Path | bytes | Image.Image | np.ndarray

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF", "AVIF")
# Of the files that a folder is read for.
IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".webp", ".tif", ".tiff"}
IMAGE_SUFFIXES |= {".gif", ".avif", ".heic", ".heif"}
# Of what its owner takes for a picture, and is told what to do.
UNREADABLE_SUFFIXES = {".pdf", ".svg", ".psd", ".jxl", ".jp2"}
MAX_PIXELS = 100_000_000
TOO_LARGE = f"more than {MAX_PIXELS // 1_000_000} megapixels. Make it smaller"
# What other files begin with, and what to do about them; the first that fits is it.
HEAD_BYTES = 1024
GIVE = "Give a PNG, JPEG, WebP, BMP or TIFF"
OTHERS = {
    rb"\Z": f"an empty file. {GIVE}",
    rb"(?s).{0,1000}%PDF-": "no picture but a PDF. Make a PNG of each page: pdftoppm -png scan.pdf page",
    rb"(?s).{0,1000}<svg": "no picture of pixels but an SVG. Export it as PNG",
    rb"8BPS": "no picture of a known format but a Photoshop file. Export it as PNG",
    rb"(?s)(\xff\x0a|.{4}JXL |.{4}jP  )": "no picture of a known format but a JPEG XL or JPEG 2000. Save it as PNG",
    rb"[\t\n\r\x20-\x7e\x80-\xff]+\Z": f"no picture but a text. {GIVE}",
    rb"": f"no picture of a known format, or a damaged one. {GIVE}",
}
HEIC = rb"(?s).{4}ftyp.{0,40}(heic|heix|heim|heis|hevc|hevx)"
NO_HEIC = "a HEIC picture. To have these read, install pillow-heif (uv sync --extra heic); or save it as JPEG"
STRIP_ROWS = 128
# What has four times as many or more is reduced, to between one and four times as many: a digit needs no more, and a
# photograph takes seconds. By the area, so that of a narrow strip, such as a receipt, enough is left across it.
ENOUGH_PIXELS = 1500 * 1125
LONGEST = 6000  # likewise, of the longer side: of a strip of one pixel
ORIGINAL_SIZE = "original_size"  # in a picture's `info`
BITS = "bits"  # likewise


class PictureError(UserError):
    """A picture that cannot be read."""


def is_picture_by_name(path: Path) -> bool:
    """Whether a file is one that a folder is read for: neither hidden, nor a folder itself."""
    return path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".") and not path.is_dir()


def read_picture(picture: Picture) -> Image.Image:
    """Decodes a picture: upright, in mode L or RGB with 8 bits, its transparent parts filled such that the ink shows.

    A large one is reduced; its `info["original_size"]` then holds the width and height that it had. Grey values of two
    bytes have 8, 12 or 16 bits, by the largest of them; `info["bits"]` holds it.

    Raises:
        PictureError: if it is none, damaged, of several frames, or of more than 100 megapixels.
    """
    with _one_line_errors(str(picture) if isinstance(picture, str | Path) else "the picture"):
        match picture:
            case str() | Path():
                with Path(picture).expanduser().open("rb") as file:
                    return _read_file(file)
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
            case OSError(filename=str(), strerror=str(reason)):  # the file system's, no decoder's
                pass
            case _:
                said = " ".join(str(error).split()) or type(error).__name__
                reason = f"no picture, or a damaged one ({said}). Give another"
        raise PictureError(f"{name}: {reason}") from error


def _read_file(file: IO[bytes]) -> Image.Image:
    head = file.read(HEAD_BYTES)
    file.seek(0)
    formats = [_heif_format()] if re.match(HEIC, head) else FORMATS
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # an error instead, where it is too large
        try:
            opened = Image.open(file, formats=formats)  # of other formats, some call another program
        except UnidentifiedImageError as error:
            raise PictureError(next(said for start, said in OTHERS.items() if re.match(start, head))) from error
    with opened as image:
        size = _checked(image).size
        factor = _factor(size)
        width, height = (max(1, side // factor) for side in size)
        image.draft(None, (width, height))  # a JPEG need not be decoded in full
        deep = not image.mode.startswith("I") and any(";16" in str(tile[3]) for tile in image.tile)
        turned = image.getexif().get(ExifTags.Base.Orientation, 1) >= 5
        ImageOps.exif_transpose(image, in_place=True)
        # Of the two bytes of a colour, Pillow reads the higher one.
        if deep and not any(map(np.any, image.getextrema())):
            raise PictureError("16 bits a channel, but no value above 255: that is black. Save it with 8 bits")
        return _plain(image, size[::-1] if turned else size)


def _heif_format() -> str:
    """Pillow's name for the format of iPhones' pictures, which a package of its own reads."""
    try:
        from pillow_heif import register_heif_opener
    except ImportError as error:
        raise PictureError(NO_HEIC) from error
    register_heif_opener()
    return "HEIF"


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
    elif frames > 1 and image.format not in ("MPO", "HEIF"):  # a telephone's, with a preview behind the picture
        problem = f"a {image.format} of {frames} frames or pages. Give one with a single one"
    if problem:
        raise PictureError(problem)
    return image


def _plain(image: Image.Image, original_size: tuple[int, int] | None = None) -> Image.Image:
    """An upright image in mode L or RGB with 8 bits, reduced if it is large."""
    original_size = original_size or image.size
    transparent, factor, bits = image.has_transparency_data, _factor(image.size), _bits(image)
    strips = []
    for strip in _strips(image, factor * STRIP_ROWS):
        if bits:
            strip = Image.fromarray((np.asarray(strip) >> (bits - 8)).astype(np.uint8))
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
    plain.info = {BITS: bits} if bits else {}
    if plain.size != original_size:
        plain.info[ORIGINAL_SIZE] = original_size
    return plain


def _strips(image: Image.Image, rows: int) -> Iterator[Image.Image]:
    """The image from top to bottom: of a large one in whole, a conversion would take some hundred megabytes more."""
    for top in range(0, image.height, rows):
        yield image.crop((0, top, image.width, min(image.height, top + rows)))


def _bits(image: Image.Image) -> int | None:
    """Those of grey values of two bytes, which may come from a camera of 12 bits, or a program that has 8; else None.

    Raises:
        PictureError: for values that need more than 16 bits.
    """
    if not image.mode.startswith("I"):  # Pillow has several modes for them
        return None
    extremes = [(int(values.min()), int(values.max())) for values in map(np.asarray, _strips(image, STRIP_ROWS))]
    lowest, highest = min(low for low, _ in extremes), max(high for _, high in extremes)
    if lowest < 0 or highest >= 2**16:
        raise PictureError(f"grey values from {lowest:,} to {highest:,}, not within 0 to 65,535. Save it with 8 bits")
    return next(bits for bits in (8, 12, 16) if highest < 2**bits)


def _factor(size: tuple[int, int]) -> int:
    return max(1, math.isqrt(size[0] * size[1] // ENOUGH_PIXELS), max(size) // LONGEST)


def _ground(image: Image.Image) -> str:
    """White or black, whichever shows the ink of an image in mode RGBA. A page has its own contrast.

    A page is what covers more than half of the picture and has light and dark in it.
    """
    grey, alpha = np.asarray(image.convert("RGB").convert("L")), np.asarray(image.getchannel("A"))
    seen = grey[alpha > alpha.max() / 2] if alpha.any() else grey  # a marker's ink shines through
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
