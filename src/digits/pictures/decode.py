"""Pictures as people have them: files of several formats, depths and modes, decoded in one place."""

import io
import warnings
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from digits.errors import UserError

# A file's path, a file's bytes, a Pillow image, or an array: uint8 of shape (H, W), (H, W, 3) or (H, W, 4).
Picture = str | Path | bytes | Image.Image | np.ndarray

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF")
READ = "PNG, JPEG, WebP, BMP and TIFF are read"
MAX_PIXELS = 100_000_000
STRIP_ROWS = 128
# Of the longer side. What has twice as many or more is reduced: a digit needs no more, and a photograph takes seconds.
ENOUGH_PIXELS = 1500
ORIGINAL_SIZE = "original_size"  # in a picture's `info`


class PictureError(UserError):
    """No picture, or none that can be read."""


def read_picture(picture: Picture) -> Image.Image:
    """The picture upright, in mode L or RGB with 8 bits, its transparent parts filled such that the ink shows.

    A large one is reduced; its `info["original_size"]` then says from which width and height.

    Raises:
        PictureError: if it is none, damaged, of several frames, or of more than 100 megapixels.
    """
    name = str(picture) if isinstance(picture, str | Path) else "the picture"
    try:
        match picture:
            case str() | Path():
                path = Path(picture).expanduser()
                if not path.stat().st_size:
                    raise PictureError(f"{name}: an empty file. Give a picture ({READ})")
                return _read_file(path, name)
            case bytes():
                if not picture:
                    raise PictureError(f"{name}: no bytes. Give a file's content ({READ})")
                return _read_file(io.BytesIO(picture), name)
            case Image.Image():
                check_header(picture, name)
                upright = ImageOps.exif_transpose(picture)
                return _plain(upright, upright.size)
            case np.ndarray():
                return _read_array(picture, name)
    except PictureError:
        raise
    except Exception as error:  # a damaged file can break a decoder anywhere
        if isinstance(error, OSError) and error.filename is not None:  # the file system's, no decoder's
            raise PictureError(f"{name}: {error.strerror}") from error
        reason = " ".join(str(error).split()) or type(error).__name__
        raise PictureError(f"{name}: no picture, or a damaged one ({reason}). Give another ({READ})") from error
    raise PictureError(f"{name}: a {type(picture).__name__}. Give a path, bytes, a Pillow image or a NumPy array")


def _read_file(file: Path | io.BytesIO, name: str) -> Image.Image:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # a line instead, where it is too large
            opened = Image.open(file, formats=FORMATS)
    except UnidentifiedImageError as error:
        raise PictureError(f"{name}: no picture of a known format. {READ}; save it as one of these") from error
    except Image.DecompressionBombError as error:
        raise PictureError(_too_large(name)) from error
    with opened as image:
        check_header(image, name)
        size = image.size
        factor = _factor(size)
        width, height = (max(1, side // factor) for side in size)
        image.draft(None, (width, height))  # a JPEG need not be decoded in full
        turned = image.getexif().get(ExifTags.Base.Orientation, 1) >= 5
        ImageOps.exif_transpose(image, in_place=True)
        return _plain(image, size[::-1] if turned else size)


def check_header(image: Image.Image, name: str) -> None:
    """Refuses from its header what should not be decoded at all.

    Raises:
        PictureError: for more pixels than a photo has, or several frames.
    """
    if image.width * image.height > MAX_PIXELS:
        raise PictureError(_too_large(name))
    frames = getattr(image, "n_frames", 1)
    if frames > 1 and image.format != "MPO":  # a telephone's JPEG with a preview behind it
        raise PictureError(f"{name}: a {image.format} of {frames} frames or pages. Give a picture of one")


def _too_large(name: str) -> str:
    return f"{name}: more than {MAX_PIXELS // 1_000_000} megapixels. Make it smaller"


def _read_array(array: np.ndarray, name: str) -> Image.Image:
    if array.dtype != np.uint8 or not (array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (3, 4))):
        raise PictureError(
            f"{name}: an array of {array.dtype}, shape {array.shape}. Give uint8 of (H, W), (H, W, 3) or (H, W, 4)"
        )
    if not array.size:
        raise PictureError(f"{name}: an array without pixels, shape {array.shape}")
    image = Image.fromarray(array)
    check_header(image, name)
    return _plain(image, image.size)


def _plain(image: Image.Image, original_size: tuple[int, int]) -> Image.Image:
    """An upright image in mode L or RGB with 8 bits, reduced if it is large."""
    transparent, factor = image.has_transparency_data, _factor(image.size)
    # In strips: of a large picture in whole, each conversion would take some hundred megabytes more.
    height = factor * STRIP_ROWS
    strips = []
    for top in range(0, image.height, height):
        strip = eight_bits(image.crop((0, top, image.width, min(image.height, top + height))))
        if transparent:
            strip = strip.convert("RGBA")
        elif strip.mode not in ("L", "RGB"):
            strip = strip.convert("L" if strip.mode == "1" else "RGB")
        strips.append(strip.reduce(factor))
    plain = Image.new(strips[0].mode, (strips[0].width, sum(strip.height for strip in strips)))
    for i, strip in enumerate(strips):
        plain.paste(strip, (0, i * STRIP_ROWS))
    if transparent:
        plain = over(plain, _ground(plain)).convert("RGB")
    plain.info = {} if plain.size == original_size else {ORIGINAL_SIZE: original_size}
    return plain


def _factor(size: tuple[int, int]) -> int:
    return max(1, max(size) // ENOUGH_PIXELS)


def eight_bits(image: Image.Image) -> Image.Image:
    """The image with 8 bits a channel.

    Raises:
        ValueError: if its pixels are fractions.
    """
    if image.mode == "F":
        raise ValueError("pixels with a fraction have no known range; save it with 8 bits")
    if image.mode.startswith("I"):  # grey with 16 bits, in one of Pillow's several modes for it
        values = np.asarray(image)
        return Image.fromarray((values.clip(0, 2**16 - 1) >> 8).astype(np.uint8))
    return image


def over(image: Image.Image, ground: str) -> Image.Image:
    """The image on a ground of this colour, where it is transparent."""
    if not image.has_transparency_data:
        return image
    image = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, ground), image)


def _ground(image: Image.Image) -> str:
    """White or black, as an image in mode RGBA needs it: ink needs contrast, a page has its own.

    A page is what covers more than half of the picture and has light and dark in it.
    """
    grey, alpha = np.asarray(image.convert("RGB").convert("L")), np.asarray(image.getchannel("A"))
    seen = grey[alpha > 127] if (alpha > 127).any() else grey
    dark = np.median(seen) < 128
    page = (alpha > 127).mean() > 0.5 and np.ptp(np.percentile(seen, [1, 99])) > 64
    return "white" if dark != page else "black"


def fitted(image: Image.Image, size: int) -> np.ndarray:
    """Scales an image, with antialiasing, to fit a square; what its shape leaves free repeats its edge.

    Args:
        image: in mode L or RGB.
        size: of the square, in pixels.

    Returns:
        uint8 of shape (C, size, size).
    """
    if image.size != (size, size):
        scale = size / max(image.size)
        image = image.resize([max(1, round(side * scale)) for side in image.size], Image.Resampling.BILINEAR)
    pixels = channels_first(image)
    free = [size - side for side in pixels.shape[1:]]
    return np.pad(pixels, [(0, 0), *((f // 2, f - f // 2) for f in free)], mode="edge")


def channels_first(image: Image.Image) -> np.ndarray:
    """The pixels of an image in mode L or RGB: uint8 of shape (C, H, W)."""
    return np.atleast_3d(np.asarray(image)).transpose(2, 0, 1)
