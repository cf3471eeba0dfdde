"""read_picture: whatever file, array or Pillow image people have is decoded, or refused in one line."""

import io
import struct
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image
from sheets import MNIST_FORM, likeness, page, picture

from digits.errors import UserError
from digits.pictures.decode import PictureError, fit_square, read_picture
from digits.pictures.normal_form import find_image


def saved(image: Image.Image, format_: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, format_, **options)
    return file.getvalue()


def modes() -> dict[str, Image.Image]:
    """A black 2 on white in the modes that pictures come in."""
    grey = picture(page((1020, 60, 30, 20), size=(120, 100)))
    clear = Image.new("L", grey.size, 0)
    alpha = grey.point(lambda value: 255 - value)
    palette = grey.quantize(16)
    palette.info["transparency"] = int(np.asarray(palette)[0, 0])  # the paper
    return {
        "L": grey,
        "RGB": grey.convert("RGB"),
        "RGBA": Image.merge("RGBA", (clear, clear, clear, alpha)),
        "LA": Image.merge("LA", (clear, alpha)),
        "light LA": Image.merge("LA", (clear.point(lambda _: 255), alpha)),
        "P": grey.quantize(16),
        "P, transparent": palette,
        "1": grey.convert("1", dither=Image.Dither.NONE),
        "I;16": Image.fromarray(np.asarray(grey).astype(np.uint16) * 257),
        "CMYK": grey.convert("CMYK"),
    }


@pytest.mark.parametrize("mode", modes())
@pytest.mark.parametrize("format_", ["PNG", "TIFF", "object"])
def test_every_mode(mode: str, format_: str) -> None:
    image = modes()[mode]
    if format_ == "PNG" and mode == "CMYK":
        pytest.skip("PNG has none")
    if format_ == "TIFF" and "transparent" in mode:
        pytest.skip("TIFF has none")
    read = read_picture(image if format_ == "object" else saved(image, format_))
    assert read.mode in ("L", "RGB")
    assert likeness(find_image(read, MNIST_FORM).image, 1020) > 0.8


def test_transparency_gets_the_ground_that_shows_the_ink() -> None:
    for name, ground in (("LA", 255), ("light LA", 0), ("P, transparent", 255)):
        pixels = np.asarray(read_picture(saved(modes()[name], "PNG")).convert("L"))
        assert pixels[0, 0] == ground
        assert abs(int(pixels.min()) - int(pixels.max())) > 200
    faint = modes()["light LA"].getchannel("A").point(lambda value: value // 3)  # a white marker's, on clear black
    white = Image.composite(Image.new("L", faint.size, 255), Image.new("L", faint.size, 0), faint.point(bool, "1"))
    assert np.ptp(np.asarray(read_picture(Image.merge("LA", (white, faint))).convert("L"))) > 80
    assert read_picture(Image.new("RGBA", (30, 20))).getextrema() == ((255, 255),) * 3  # nothing but transparency
    screenshot = modes()["L"].convert("RGBA")  # a page with round corners
    screenshot.putpixel((0, 0), (0, 0, 0, 0))
    assert read_picture(screenshot).getpixel((0, 0)) == (255, 255, 255)


@pytest.mark.parametrize("format_", ["PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF", "AVIF"])
def test_every_format_by_path_by_bytes_and_as_an_object(format_: str, tmp_path: Path) -> None:
    path = tmp_path / "named.like_none"
    content = saved(modes()["L"], format_)
    path.write_bytes(content)
    pictures = [read_picture(one) for one in (path, str(path), content, Image.open(path))]
    for one in pictures:
        assert np.array_equal(np.asarray(one), np.asarray(pictures[0]))
        assert np.abs(np.asarray(one.convert("L")).astype(int) - np.asarray(modes()["L"])).mean() < 3


@pytest.mark.parametrize(("most", "bits"), [(255, 8), (4095, 12), (65535, 16)])
@pytest.mark.parametrize("format_", ["PNG", "TIFF"])
def test_two_bytes_of_grey_hold_8_12_or_16_bits(most: int, bits: int, format_: str) -> None:
    """As of a program that leaves the range of its values alone, or of a camera of 12 bits."""
    values = (np.asarray(modes()["L"]).astype(float) * most / 255).round().astype(np.uint16)
    read = read_picture(saved(Image.fromarray(values), format_))
    assert read.info["bits"] == bits
    np.testing.assert_allclose(np.asarray(read), values / 2 ** (bits - 8), atol=1)
    assert "bits" not in read_picture(modes()["L"]).info


def test_colours_of_two_bytes() -> None:
    """Pillow reads their higher bytes: what holds 8 bits is refused, and not read as a black picture."""
    cv2 = pytest.importorskip("cv2")
    values = np.dstack([np.asarray(modes()["L"]).astype(np.uint16)] * 3)
    for suffix in (".png", ".tif"):
        full, low = (cv2.imencode(suffix, values * factor)[1].tobytes() for factor in (257, 1))
        assert np.array_equal(np.asarray(read_picture(full)), values)
        with pytest.raises(PictureError, match=r"16 bits a channel, but no value above 255: that is black. Save it"):
            read_picture(low)
    assert read_picture(saved(Image.new("RGB", (9, 9)), "PNG")).getpixel((0, 0)) == (0, 0, 0)  # 8 bits may be black


def heic() -> bytes:
    pytest.importorskip("pillow_heif").register_heif_opener()
    return saved(modes()["RGB"], "HEIF", quality=90)


def test_heic_of_a_telephone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "IMG_0001.HEIC").write_bytes(heic())
    upright = np.asarray(modes()["L"]).astype(int)
    for given in (tmp_path / "IMG_0001.HEIC", heic()):
        assert np.abs(np.asarray(read_picture(given).convert("L")) - upright).mean() < 4
    for bad in (heic()[:-50], heic()[:300], heic()[:40]):
        with pytest.raises(PictureError, match="no picture"):
            read_picture(bad)
    content = heic()
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(PictureError, match=r"a HEIC picture.* install pillow-heif .*uv sync --extra heic.*JPEG"):
        read_picture(content)


def test_arrays() -> None:
    pixels = np.asarray(modes()["L"])
    opaque = np.dstack([pixels, pixels, pixels, np.full_like(pixels, 255)])
    for array in (pixels, opaque[..., :3], opaque):
        assert np.array_equal(np.asarray(read_picture(array).convert("L")), pixels)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format_", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_exif_orientation(orientation: int, format_: str) -> None:
    """Stored as a camera held that way stores it, it comes out upright."""
    upright = np.asarray(modes()["L"])
    # Of the EXIF standard: where the stored picture's first row and first column are in the upright one.
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.T,
        6: np.rot90(upright),
        7: upright[::-1, ::-1].T,
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    read = read_picture(saved(Image.fromarray(np.ascontiguousarray(stored)), format_, exif=exif))
    assert read.size == upright.shape[::-1]
    assert np.abs(np.asarray(read.convert("L")).astype(int) - upright).mean() < 3


@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize("format_", ["JPEG", "PNG"])
@pytest.mark.parametrize("opened", [False, True])
def test_large_picture_is_reduced_but_its_box_is_not(orientation: int, format_: str, opened: bool) -> None:
    upright = picture(page((1020, 900, 3100, 700), size=(5000, 2500)) > 0.5)
    stored = upright if orientation == 1 else upright.transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    content = saved(stored, format_, exif=exif)
    read = read_picture(Image.open(io.BytesIO(content)) if opened else content)
    assert max(read.size) < 3000
    found = find_image(read, MNIST_FORM)
    assert likeness(found.image, 1020) > 0.85
    rows, columns = np.nonzero(np.asarray(upright) == 0)
    expected = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
    np.testing.assert_allclose(found.box, expected, atol=16)


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((1, 1), (1, 1)),
        ((1, 24_000), (1, 6000)),
        ((24_000, 1), (6000, 1)),
        ((2598, 2598), (2598, 2598)),
        ((2599, 2598), (1300, 1299)),
        ((4032, 3024), (2016, 1512)),
        ((800, 11_999), (400, 6000)),
    ],
)
@pytest.mark.parametrize("format_", ["PNG", "JPEG"])
def test_sizes(size: tuple[int, int], expected: tuple[int, int], format_: str) -> None:
    read = read_picture(saved(Image.new("L", size, 200), format_))
    assert read.size == expected
    assert read.info.get("original_size", read.size) == size
    assert read.getextrema() == (200, 200)


def test_photograph_of_50_megapixels() -> None:
    image = Image.new("L", (8700, 5800), 230)
    image.paste(40, (4000, 2000, 4300, 3500))
    read = read_picture(saved(image, "JPEG"))
    assert max(read.size) < 3000
    np.testing.assert_allclose(find_image(read, MNIST_FORM).box, (4000, 2000, 4300, 3500), atol=50)


def test_first_picture_of_a_telephones_mpo() -> None:
    """A JPEG with a preview behind it: no animation."""
    image = modes()["L"].convert("RGB")
    content = saved(image, "MPO", save_all=True, append_images=[image.resize((60, 50))])
    assert read_picture(content).size == image.size


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size, with next to nothing in it."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")


FRAMES = [Image.new("L", (20, 20), grey) for grey in (0, 100, 200)]
BAD = {
    "empty": (b"", "an empty file. Give a PNG"),
    "text": (b"no picture at all", "no picture but a text. Give a PNG, JPEG"),
    "web page": ("<!doctype html>\r\n<p>not found: Größe".encode(), "no picture but a text"),
    "bytes": (bytes(range(256)), "no picture of a known format, or a damaged one. Give a PNG"),
    "pdf": (b"\n%PDF-1.7 \x00", "a PDF. Make a PNG of each page: pdftoppm -png"),
    "svg": (b'<?xml version="1.0"?>\n<svg width="9"/>', "an SVG. Export it as PNG"),
    "photoshop": (b"8BPS\0\1", "a Photoshop file"),
    "jpeg xl": (b"\xff\x0a\xfa", "a JPEG XL"),
    "resource fork": (b"\0\5\x16\7\0\2\0\0Mac OS X", "no picture of a known format"),
    "truncated png": (saved(modes()["L"], "PNG")[:-60], "damaged"),
    "truncated jpeg": (saved(modes()["L"], "JPEG")[:-200], "damaged.*truncated"),
    "header alone": (saved(modes()["L"], "PNG")[:20], "no picture"),
    "bomb": (png_header(50_000, 50_000), "more than 100 megapixels"),
    "just too large": (png_header(10_001, 10_000), "more than 100 megapixels"),
    "animated gif": (saved(FRAMES[0], "GIF", save_all=True, append_images=FRAMES[1:]), "GIF of 3 frames"),
    "animated png": (saved(FRAMES[0], "PNG", save_all=True, append_images=FRAMES[1:]), "PNG of 3 frames"),
    "animated webp": (saved(FRAMES[0], "WEBP", save_all=True, append_images=FRAMES[1:]), "WEBP of 3 frames"),
    "pages": (saved(FRAMES[0], "TIFF", save_all=True, append_images=FRAMES[1:]), "TIFF of 3 frames"),
    "32 bits": (saved(Image.fromarray(np.array([[0, 70_000]], np.int32)), "TIFF"), "grey values from 0 to 70,000"),
    "negative": (saved(Image.fromarray(np.array([[-1, 9]], np.int32)), "TIFF"), "grey values from -1 to 9"),
    "fractions": (saved(Image.new("F", (20, 20)), "TIFF"), "fraction"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_files_in_one_line(name: str, tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    content, message = BAD[name]
    path = tmp_path / "bad.png"
    path.write_bytes(content)
    for given, named in ((path, str(path)), (content, "the picture")):
        with pytest.raises(PictureError, match=message) as error:
            read_picture(given)
        assert isinstance(error.value, UserError)
        assert str(error.value).startswith(f"{named}: ")
        assert "\n" not in str(error.value)
    assert not recwarn.list


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(PictureError, match=r"nowhere.png: No such file"):
        read_picture(tmp_path / "nowhere.png")
    with pytest.raises(PictureError, match=f"{tmp_path}: Is a directory"):
        read_picture(tmp_path)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (np.zeros((28, 28)), "array of float64.*uint8"),
        (np.zeros((28, 28), bool), "array of bool.*uint8"),
        (np.zeros((1, 28, 28), np.uint8), r"shape \(1, 28, 28\)"),
        (np.zeros(784, np.uint8), r"shape \(784,\)"),
        (np.zeros((0, 28), np.uint8), r"shape \(0, 28\)"),
        (np.broadcast_to(np.uint8(0), (20_000, 6_000)), "100 megapixels"),
        ([1, 2], "a list"),
        (None, "a NoneType"),
    ],
)
def test_bad_objects_in_one_line(given: object, message: str) -> None:
    with pytest.raises(PictureError, match=message) as error:
        read_picture(given)
    assert "\n" not in str(error.value)


def test_a_pillow_image_is_left_as_it_was() -> None:
    image = Image.open(io.BytesIO(saved(picture(page((1020, 900, 100, 100), size=(4200, 1700))), "JPEG")))
    assert max(read_picture(image).size) < 3000
    assert image.size == (4200, 1700)


def test_fit_square_keeps_the_shape_and_repeats_the_edge() -> None:
    wide = Image.fromarray(np.tile(np.array([[10], [200]], np.uint8), (1, 4)))  # 4 wide, 2 high: dark above light
    assert fit_square(wide, 4).tolist() == [[[10] * 4, [10] * 4, [200] * 4, [200] * 4]]
    colours = fit_square(Image.new("RGB", (30, 60), (1, 2, 3)), 28)
    assert colours.shape == (3, 28, 28)
    assert (colours == np.array([1, 2, 3]).reshape(3, 1, 1)).all()
