"""The benchmark's pictures: what people photograph, by rows of the table, each drawn by its own seed.

Independent of what the project trains with: MNIST's *test* digits, other papers, pens and light, drawn by other code.
"""

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import cv2
import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from benchmarks.handwriting import (
    IN_WORDS,
    INKS,
    LETTERS,
    SIGNS,
    SYMBOLS,
    Digits,
    Glyph,
    Pen,
    any_pen,
    chalk,
    cropped,
    curve,
    drawn,
    face,
    line,
    ring,
    scribble,
    segments,
)
from benchmarks.photographs import (
    PHOTOS,
    board,
    camera,
    desk,
    encoded,
    glare,
    laid,
    light,
    litter,
    paper,
    photo,
    rule,
    shadow,
)

NEWLINE = " / "  # between a label's lines
SMALLEST_DIGIT = 30  # pixels of a digit's height, at least
TEXT_FONTS = (
    "DejaVuSans DejaVuSans-Bold DejaVuSans-Oblique DejaVuSerif DejaVuSerif-Bold DejaVuSerif-Italic DejaVuSansMono"
    " DejaVuSansMono-Bold STIXGeneral STIXGeneralBol STIXGeneralItalic cmr10 cmss10 cmtt10 cmb10"
)
WORDS = (
    "name date apple river yellow window friend school paper garden monday thanks music street happy winter"
    " family open coffee market doctor travel simple orange Hello Total Notes Exam Paris Anna Welcome Home Milk"
    " Bread"
)


@dataclass(frozen=True)
class Picture:
    """One of the benchmark's pictures.

    Args:
        row: of the table.
        kind: within the row.
        text: what is written there, its lines separated by ` / `; empty if there is no digit.
        file: a JPEG or PNG.
    """

    row: str
    kind: str
    text: str
    file: bytes

    @property
    def suffix(self) -> str:
        return ".png" if self.file.startswith(b"\x89PNG") else ".jpg"


@dataclass(frozen=True)
class Desk:
    """What the drawers draw with: chance, MNIST's test digits, fonts."""

    rng: np.random.Generator
    digits: Digits
    fonts: tuple[Path, ...]

    def between(self, low: float, high: float) -> float:
        return float(self.rng.uniform(low, high))

    def chance(self, share: float) -> bool:
        return bool(self.rng.random() < share)

    def one_of(self, *choices: str) -> str:
        return str(self.rng.choice(choices))

    def number(self, least: int, most: int) -> str:
        return "".join(map(str, self.rng.integers(10, size=int(self.rng.integers(least, most + 1)))))

    def glyphs(self, text: str) -> list[Glyph]:
        """Of digits and signs."""
        return [
            self.digits.glyph(self.rng, c) if c.isdigit() else drawn((SIGNS | IN_WORDS)[c], self.rng, 0.2) for c in text
        ]

    def written(self, text: str, height: float, pen: Pen, **how: object) -> np.ndarray:
        return line(self.rng, self.glyphs(text), height, pen, **how)  # type: ignore[arg-type]

    def shape(self, low: int = 320, high: int = 1150) -> tuple[int, int]:
        """Height and width of a picture, upright or sideways."""
        long = self.between(low, high)
        short = long / float(self.rng.choice([1, 1.25, 4 / 3, 1.5, 16 / 9]))
        return (int(short), int(long)) if self.chance(0.5) else (int(long), int(short))

    def digit_height(self, shape: tuple[int, int], low: float = 0.07, high: float = 0.7) -> float:
        return max(SMALLEST_DIGIT, min(shape) * float(np.exp(self.between(np.log(low), np.log(high)))))


Scene = tuple[bytes, str]  # a file and its text
Drawer = Callable[[Desk], Scene]


def put(plane: np.ndarray, ink: np.ndarray, pen: Pen, x: int, y: int) -> None:
    """Lays ink (H, W) onto a plane with its upper left corner at (x, y); what is outside is lost."""
    left, top = max(0, -x), max(0, -y)
    x, y = max(0, x), max(0, y)
    here = plane[y : y + len(ink) - top, x : x + ink.shape[1] - left]
    alpha = pen.opacity * ink[top : top + here.shape[0], left : left + here.shape[1], None]
    here[:] = here * (1 - alpha) + np.array(pen.colour, np.float32) * alpha


def place(d: Desk, plane: np.ndarray, ink: np.ndarray, pen: Pen, margin: float = 0.06) -> tuple[int, int]:
    """Lays ink somewhere onto a plane, with a margin, and says where."""
    x, y = (
        int(d.between(*sorted((margin * room, (1 - margin) * room - size))))
        for room, size in zip(plane.shape[1::-1], ink.shape[::-1], strict=True)
    )
    put(plane, ink, pen, x, y)
    return x, y


def fitting(ink: np.ndarray, shape: tuple[int, ...], share: float = 0.86) -> np.ndarray:
    """Ink (H, W), reduced where it is larger than a share of the plane."""
    factor = min(1.0, share * shape[0] / ink.shape[0], share * shape[1] / ink.shape[1])
    return ink if factor == 1 else cv2.resize(ink, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)


def askew(d: Desk, plane: np.ndarray, most: float, margin: float) -> np.ndarray:
    """A plane as a hand-held camera sees it: a little turned, in perspective and nearer, so that no edge shows.

    What lies within the margin (a share of each side) stays in the picture: if need be, it is turned less.
    """
    height, width = plane.shape[:2]
    middle = np.array([width, height], np.float32) / 2
    corners = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]], np.float32) * middle
    angle, near = np.radians(d.between(-most, most)), d.rng.uniform(0.0, 0.08, (4, 1))
    for _ in range(5):
        turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
        slack = 1 + 1.15 * abs(np.sin(angle)) * max(height / width, width / height)
        moved = (corners @ turn * slack * (1 + near)).astype(np.float32)
        matrix = cv2.getPerspectiveTransform(corners + middle, moved + middle)
        content = cv2.perspectiveTransform(((1 - 2 * margin) * corners + middle)[None], matrix)[0]
        if (content >= 0).all() and (content <= 2 * middle).all():
            return cv2.warpPerspective(plane, matrix, (width, height), borderMode=cv2.BORDER_REFLECT)
        angle, near = angle / 2, near / 2
    return plane


def photographed(
    d: Desk, plane: np.ndarray, shadows: float = 0.25, rough: float = 1.0, turn: float = 6.0, margin: float = 0.13
) -> bytes:
    """A photo of a flat plane that fills the picture; the margin (a share of each side) is free."""
    if turn and d.chance(0.6):
        plane = askew(d, plane, turn, margin)
    plane = plane * light(d.rng, plane.shape[:2])
    if d.chance(shadows):
        plane = plane * shadow(d.rng, plane.shape[:2])
    return encoded(*camera(d.rng, plane, rough))


def one_digit(d: Desk, plane: np.ndarray, pen: Pen, low: float = 0.07, high: float = 0.65) -> str:
    """Writes a digit somewhere onto a plane."""
    text = d.number(1, 1)
    # What is askew comes nearer, so that the margin must be wide.
    ink = fitting(d.written(text, d.digit_height(plane.shape[:2], low, high), pen), plane.shape, 0.7)
    place(d, plane, ink, pen, 0.14)
    return text


# Rows of one digit


def blank_page(d: Desk) -> Scene:
    sheet = paper(d.rng, d.shape())
    text = one_digit(d, sheet, any_pen(d.rng))
    return photographed(d, sheet, shadows=0), text


def canvas(d: Desk) -> Scene:
    """The page's canvas or another program's: a round pen, no noise; a PNG."""
    side = int(d.between(120, 600))
    plane = np.full((side, int(side * d.between(1, 1.4)), 3), d.between(0.93, 1), np.float32)
    pen = Pen("brush", (0.03,) * 3, d.between(0.03, 0.09), 1.0, 0.0)
    text = d.number(1, 1)
    ink = fitting(d.written(text, d.digit_height(plane.shape[:2], 0.35, 0.8), pen), plane.shape)
    place(d, plane, ink, pen, 0.05)
    plane = 1 - plane if d.chance(0.4) else plane
    return encoded((255 * np.clip(plane, 0, 1)).astype(np.uint8)), text


def shadowed(d: Desk) -> Scene:
    sheet = paper(d.rng, d.shape())
    text = one_digit(d, sheet, any_pen(d.rng))
    return photographed(d, sheet, shadows=1), text


def uneven(d: Desk) -> Scene:
    sheet = paper(d.rng, d.shape())
    text = one_digit(d, sheet, any_pen(d.rng))
    sheet *= light(d.rng, sheet.shape[:2], 1.8) * light(d.rng, sheet.shape[:2], 1.2)
    sheet = glare(d.rng, sheet, 1) if d.chance(0.2) else sheet
    return photographed(d, sheet, shadows=0.2), text


def noisy(d: Desk) -> Scene:
    sheet = paper(d.rng, d.shape())
    text = one_digit(d, sheet, any_pen(d.rng), low=0.12)
    picture, _ = camera(d.rng, sheet * light(d.rng, sheet.shape[:2]), rough=d.between(1.5, 3))
    return encoded(picture, int(d.between(40, 95))), text


def compressed(d: Desk) -> Scene:
    """Sent by a messenger: small, twice compressed."""
    sheet = paper(d.rng, d.shape(260, 600))
    text = one_digit(d, sheet, any_pen(d.rng), low=0.15)
    picture, _ = camera(d.rng, sheet * light(d.rng, sheet.shape[:2]))
    picture = cv2.resize(picture, None, fx=0.8, fy=0.8, interpolation=cv2.INTER_AREA)
    return encoded(picture, int(d.between(40, 55))), text


def on_rules(kinds: str) -> Drawer:
    def draw(d: Desk) -> Scene:
        sheet = paper(d.rng, d.shape())
        text, height = d.number(1, 1), d.digit_height(sheet.shape[:2], 0.07, 0.5)
        rule(d.rng, sheet, d.one_of(*kinds.split()), height)
        pen = any_pen(d.rng)
        place(d, sheet, fitting(d.written(text, height, pen), sheet.shape, 0.7), pen, 0.14)
        return photographed(d, sheet), text

    return draw


def a_sheet(d: Desk) -> np.ndarray:
    """An empty sheet of a usual format; seldom ruled."""
    long = d.between(350, 800)
    short = long / float(d.rng.choice([1, 1.3, 1.414, 1.414, 1.7]))
    sheet = paper(d.rng, (int(long), int(short)) if d.chance(0.6) else (int(short), int(long)))
    if d.chance(0.25):
        rule(d.rng, sheet, d.one_of("ruled", "squared", "dotted"), d.between(30, 80))
    return sheet


def on_desk(d: Desk, sheet: np.ndarray, cut: float = 0.0, turn: float = 25.0) -> bytes:
    """A photo of a sheet on a desk."""
    ground = desk(d.rng, d.shape(600, 1150))
    for _ in range(int(d.rng.choice([0, 1, 2], p=[0.6, 0.3, 0.1]))):
        litter(d.rng, ground)
    scene = laid(d.rng, sheet, ground, d.between(-turn, turn), d.between(0, 0.14), cut)
    scene = scene * light(d.rng, scene.shape[:2])
    scene = scene * shadow(d.rng, scene.shape[:2]) if d.chance(0.35) else scene
    return encoded(*camera(d.rng, scene))


def sheet_on_desk(d: Desk) -> Scene:
    sheet = a_sheet(d)
    text = one_digit(d, sheet, any_pen(d.rng), 0.11, 0.65)
    return on_desk(d, sheet), text


def sheet_cut_off(d: Desk) -> Scene:
    """The sheet reaches beyond the picture, its digit does not."""
    sheet = a_sheet(d)
    pen, text = any_pen(d.rng), d.number(1, 1)
    ink = fitting(d.written(text, d.digit_height(sheet.shape[:2], 0.15, 0.5), pen), sheet.shape, 0.5)
    place(d, sheet, ink, pen, 0.25)
    return on_desk(d, sheet, cut=0.12, turn=20), text


def sticky_note(d: Desk) -> Scene:
    side = int(d.between(220, 420))
    sheet = paper(d.rng, (side, side), d.one_of("yellow", "yellow", "pink", "blue", "white"))
    text = one_digit(d, sheet, any_pen(d.rng, ["felt", "marker", "ballpoint", "gel"]), 0.3, 0.75)
    return on_desk(d, sheet), text


def on_board(kind: str) -> Drawer:
    def draw(d: Desk) -> Scene:
        plane = board(d.rng, d.shape(), kind)
        if kind == "whiteboard":
            pen = replace(any_pen(d.rng, ["felt", "marker"]), opacity=d.between(0.7, 0.95))
            pen = replace(pen, radius=d.between(0.025, 0.06))
            text = one_digit(d, plane, pen)
            plane = glare(d.rng, plane, int(d.rng.integers(1, 4)))
        else:
            pen = (
                chalk(d.rng)
                if kind == "chalkboard"
                else replace(chalk(d.rng), grain=d.between(0, 0.25), opacity=d.between(0.8, 1))
            )
            text = one_digit(d, plane, pen)
        return photographed(d, plane, shadows=0.1), text

    return draw


def dark_mode(d: Desk) -> Scene:
    """A drawing program in dark mode: light strokes on dark grey, no noise."""
    plane = np.ones((*d.shape(200, 800), 3), np.float32) * d.rng.uniform(0.0, 0.2, 3).astype(np.float32)
    colour = tuple(np.clip(d.between(0.7, 1) + d.rng.normal(0, 0.08, 3), 0, 1).tolist())
    pen = Pen("brush", colour, d.between(0.025, 0.07), 1.0, 0.05)  # type: ignore[arg-type]
    text = one_digit(d, plane, pen, 0.15, 0.7)
    quality = 0 if d.chance(0.5) else int(d.between(60, 95))
    return encoded((255 * np.clip(plane, 0, 1)).astype(np.uint8), quality), text


# Rows of lines


def strip(d: Desk, ink: np.ndarray) -> tuple[int, int]:
    """Height and width of a picture around a line."""
    height, width = ink.shape
    return int(height * d.between(1.25, 3.5)) + 8, int(width * d.between(1.08, 1.6)) + 8


def a_line(least: int = 2, most: int = 9, rules: str = "", gaps: bool = False, **how: object) -> Drawer:
    def draw(d: Desk) -> Scene:
        pen, text = any_pen(d.rng), d.number(least, most)
        if gaps:
            pen = replace(pen, gaps=d.between(0.04, 0.14), radius=max(pen.radius, 0.02))
        height = d.between(max(SMALLEST_DIGIT, 34), 150)
        ink = d.written(text, height, pen, **how)
        if ink.shape[1] > 1150:
            height, ink = height * 1150 / ink.shape[1], fitting(ink, (10**6, 1150), 1)
        sheet = paper(d.rng, strip(d, ink))
        if rules:
            rule(d.rng, sheet, d.one_of(*rules.split()), height)
        place(d, sheet, ink, pen, 0.035)
        return photographed(d, sheet, margin=0.03), text

    return draw


def block_of(d: Desk, texts: Sequence[str], height: float, pen: Pen, align: float = 0.0) -> np.ndarray:
    """Lines one below the other: the ink (H, W); `align`: 0 is left, 1 is right."""
    inks = [d.written(text, height, pen, gap=(0.1, 0.35)) for text in texts]
    pitch = height * d.between(1.45, 2.0)
    width = max(ink.shape[1] for ink in inks)
    block = np.zeros((int(pitch * len(inks) + 1.2 * height), width + int(0.5 * height)), np.float32)
    for i, ink in enumerate(inks):
        low = i * pitch + max(0.0, height - len(ink)) * (0.5 if set(texts[i]) & set("-=") else 0)
        y = int(low)
        x = int(align * (width - ink.shape[1]) + d.between(0, 0.4) * height * (align < 1))
        here = block[y : y + len(ink), x : x + ink.shape[1]]
        np.maximum(here, ink[: len(here), : here.shape[1]], out=here)
    return cropped(block)


def on_some_page(d: Desk, ink: np.ndarray, pen: Pen, height: float) -> bytes:
    """A photo of a block on a page: plain or ruled, close or on a desk."""
    ink = fitting(ink, (1000, 1000), 1)
    shape = int(len(ink) * d.between(1.15, 1.9)) + 10, int(ink.shape[1] * d.between(1.15, 1.9)) + 10
    sheet = paper(d.rng, shape)
    if d.chance(0.2):
        rule(d.rng, sheet, d.one_of("ruled", "squared", "dotted"), height)
    place(d, sheet, ink, pen, 0.06)
    return on_desk(d, sheet, turn=12) if d.chance(0.15) else photographed(d, sheet, margin=0.055)


def some_lines(d: Desk, texts: list[str]) -> Scene:
    pen, height = any_pen(d.rng), d.between(38, 100)
    return on_some_page(d, block_of(d, texts, height, pen), pen, height), NEWLINE.join(texts)


def a_list(d: Desk) -> Scene:
    return some_lines(d, [d.number(2, 6) for _ in range(int(d.rng.integers(2, 5)))])


def a_block(d: Desk) -> Scene:
    width = int(d.rng.integers(3, 7))
    return some_lines(d, [d.number(width, width) for _ in range(int(d.rng.integers(2, 5)))])


def a_sum(d: Desk) -> Scene:
    """Two or three numbers, a sign, a rule and the result, from the right."""
    sign = d.one_of("+", "+", "-")
    numbers = sorted(d.rng.integers(10, 10 ** int(d.rng.integers(2, 5)), size=2).tolist(), reverse=True)
    result = sum(numbers) if sign == "+" else numbers[0] - numbers[1]
    texts = [str(numbers[0]), f"{sign}{numbers[1]}", str(result)]
    pen, height = any_pen(d.rng), d.between(38, 100)
    upper = block_of(d, texts[:2], height, pen, align=1.0)
    lower = d.written(texts[2], height, pen)
    width = max(upper.shape[1], lower.shape[1])
    space = int(d.between(0.25, 0.45) * height)
    ink = np.zeros((len(upper) + 2 * space + len(lower), width + int(0.4 * height)), np.float32)
    ink[: len(upper), width - upper.shape[1] : width] = upper
    ink[-len(lower) :, width - lower.shape[1] : width] = lower
    y = len(upper) + space
    ends = np.array([[0, y + d.between(-3, 3)], [ink.shape[1], y + d.between(-3, 3)]]).astype(int)
    cv2.line(ink, tuple(ends[0]), tuple(ends[1]), 1.0, max(1, round(2 * pen.radius * height)), cv2.LINE_AA)
    return on_some_page(d, ink, pen, height), NEWLINE.join(texts)


# Forms


def form(kind: str, least: int = 3, most: int = 9) -> Drawer:
    """Digits in printed cells: boxes side by side, separate boxes, one box, or a comb."""

    def draw(d: Desk) -> Scene:
        pen, text = any_pen(d.rng, ["ballpoint", "gel", "felt", "pencil", "fountain"]), d.number(least, most)
        cell = d.between(52, 130) if len(text) > 1 else d.between(80, 320)
        high, wide = cell * d.between(1.0, 1.35), cell
        gap = d.between(0.12, 0.35) * cell if kind == "separate" else 0.0
        height = int(high * d.between(1.5, 3.2))
        sheet = paper(d.rng, (height, int((wide + gap) * len(text) + cell * d.between(0.5, 1.5))))
        x = d.between(0.2, 0.45) * cell
        y = d.between(0.15, 1) * (height - high - 0.3 * cell)
        colour, thick = form_line(d, cell)
        for i, digit in enumerate(text):
            left = x + i * (wide + gap)
            cell_lines(sheet, kind, (left, y, left + wide, y + high), colour, thick, first=i == 0)
            ink = d.written(digit, high * d.between(0.5, 0.8), pen)
            ink = fitting(ink, (int(high), int(wide)), 0.98 if d.chance(0.15) else 0.85)
            shift = d.rng.normal(0, 0.05, 2) * cell
            at = left + (wide - ink.shape[1]) / 2 + shift[0], y + (high - len(ink)) / 2 + shift[1]
            put(sheet, ink, pen, round(at[0]), round(at[1]))
        if d.chance(0.15):
            caption = typed(d, d.one_of("Name", "Date", "Number", "Account", "Phone"), max(11, cell * 0.22))
            if y > len(caption) + 4:
                put(sheet, caption, Pen("print", (0.2, 0.2, 0.22), 0), round(x), round(y - len(caption) - 3))
        return photographed(d, sheet, turn=3, margin=0.04), text

    return draw


def form_line(d: Desk, cell: float) -> tuple[tuple[float, float, float], int]:
    """Colour and thickness of a form's lines."""
    colours = [(0.15, 0.15, 0.17), (0.4, 0.42, 0.45), (0.35, 0.5, 0.75), (0.9, 0.55, 0.4), (0.35, 0.6, 0.45)]
    chosen = np.array(colours[int(d.rng.choice(5, p=[0.35, 0.25, 0.2, 0.12, 0.08]))])
    red, green, blue = np.clip(chosen + d.rng.normal(0, 0.03, 3), 0, 1).tolist()
    return (red, green, blue), max(1, round(cell * d.between(0.008, 0.03)))


def cell_lines(
    sheet: np.ndarray,
    kind: str,
    box: tuple[float, float, float, float],
    colour: tuple[float, float, float],
    thick: int,
    first: bool,
) -> None:
    left, top, right, bottom = (round(8 * side) for side in box)
    if kind != "comb":
        cv2.rectangle(sheet, (left, top), (right, bottom), colour, thick, cv2.LINE_AA, 3)
        return
    tooth = bottom - (bottom - top) // 3
    ends = [((left, bottom), (right, bottom)), ((right, tooth), (right, bottom))]
    for start, end in ends + ([((left, tooth), (left, bottom))] if first else []):
        cv2.line(sheet, start, end, colour, thick, cv2.LINE_AA, 3)


# Screens


@cache
def font(path: Path, size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(str(path), size)


def typed(d: Desk, text: str, height: float) -> np.ndarray:
    """Type of that digit height: its ink (H, W)."""
    chosen = font(d.fonts[int(d.rng.integers(len(d.fonts)))], max(8, round(height / 0.72)))
    left, top, right, bottom = map(int, chosen.getbbox(text))
    image = Image.new("L", (right - left + 4, bottom - top + 4))
    ImageDraw.Draw(image).text((2 - left, 2 - top), text, fill=255, font=chosen)
    return np.asarray(image, np.float32) / 255


def user_interface(d: Desk, shape: tuple[int, int], dark: bool) -> np.ndarray:
    """An empty window: a bar, buttons, fields, a card; the middle is free."""
    height, width = shape
    ground, raised = (
        (d.between(0.05, 0.16), d.between(0.18, 0.28)) if dark else (d.between(0.93, 1), d.between(0.85, 0.95))
    )
    plane = np.full((height, width, 3), ground, np.float32)
    accent = tuple(map(float, d.rng.uniform(0.1, 0.9, 3)))
    bar = int(height * d.between(0.07, 0.13))
    if d.chance(0.6):
        colour = accent if d.chance(0.5) else (raised,) * 3
        cv2.rectangle(plane, (0, 0), (width, bar), colour, -1)
        for i in range(3):
            if d.chance(0.5):
                dot = tuple(map(float, d.rng.uniform(0.2, 1, 3)))
                cv2.circle(plane, (int(bar * (0.5 + 0.5 * i)), bar // 2), max(2, bar // 7), dot, -1, cv2.LINE_AA)
    if d.chance(0.5):  # a button
        left, low = int(width * d.between(0.1, 0.6)), int(height * d.between(0.84, 0.88))
        cv2.rectangle(plane, (left, low), (left + int(0.25 * width), low + int(0.08 * height)), accent, -1)
    if d.chance(0.4):  # a field or card around the middle
        inset = int(0.06 * width), int(0.2 * height)
        cv2.rectangle(plane, inset, (width - inset[0], height - inset[1]), (raised,) * 3, -1)
        if d.chance(0.5):
            edge = (0.5 + 0.2 * (ground < 0.5),) * 3
            cv2.rectangle(plane, inset, (width - inset[0], height - inset[1]), edge, max(1, height // 300))
    return plane


def screenshot(least: int, most: int, word: bool = False) -> Drawer:
    def draw(d: Desk) -> Scene:
        dark, text = d.chance(0.4), d.number(least, most)
        shape = (int(d.between(160, 600)), int(d.between(240, 900)))
        plane = user_interface(d, shape, dark)
        height = max(13, min(0.4 * shape[0], 0.75 * shape[1] / (0.85 * len(text)) * d.between(0.25, 1)))
        ink = fitting(typed(d, text, height), (int(0.5 * shape[0]), int(0.75 * shape[1])), 1)
        tone = d.between(0.75, 1) if dark else d.between(0, 0.35)
        pen = Pen("type", (tone, tone, tone), 0, 1.0)
        x = int(d.between(0.1, 0.88 - ink.shape[1] / shape[1]) * shape[1])
        y = int(d.between(0.24, 0.76 - len(ink) / shape[0]) * shape[0])
        if word and len(ink) < 0.3 * shape[0]:
            head = fitting(typed(d, str(d.rng.choice(WORDS.split())), height * 0.7), (len(ink), int(0.7 * shape[1])), 1)
            put(plane, head, pen, int(0.08 * shape[1]), max(2, y - len(head) - int(0.5 * height)))
        put(plane, ink, pen, x, y)
        picture = (255 * np.clip(plane, 0, 1)).astype(np.uint8)
        return encoded(picture, 0 if d.chance(0.6) else int(d.between(40, 95))), text

    return draw


def printed(d: Desk) -> Scene:
    """A printed number, photographed."""
    text = d.number(1, 8)
    ink = fitting(typed(d, text, d.between(24, 110)), (900, 900), 1)
    sheet = paper(d.rng, strip(d, ink))
    pen = Pen("print", INKS["black"], 0, d.between(0.75, 0.97))
    place(d, sheet, ink, pen, 0.05)
    return photographed(d, sheet, margin=0.045), text


# No digit


def by_hand(glyphs: Callable[[Desk], list[Glyph]], high: float = 0.55, **how: object) -> Drawer:
    """Something drawn, on any of the grounds that digits stand on."""

    def draw(d: Desk) -> Scene:
        ground = d.one_of("page", "page", "page", "ruled", "desk", "board")
        if ground == "desk":
            plane = a_sheet(d)
        elif ground == "board":
            plane = board(d.rng, d.shape(), "chalkboard")
        else:
            plane = paper(d.rng, d.shape())
        pen = chalk(d.rng) if ground == "board" else any_pen(d.rng)
        height = d.digit_height(plane.shape[:2], 0.1, high)
        if ground == "ruled":
            rule(d.rng, plane, d.one_of("ruled", "squared", "dotted"), height)
        ink = line(d.rng, glyphs(d), height, pen, **how)  # type: ignore[arg-type]
        place(d, plane, fitting(ink, plane.shape, 0.7), pen, 0.14)
        return on_desk(d, plane) if ground == "desk" else photographed(d, plane), ""

    return draw


def drawn_from(table: dict[str, str], sloppy: float = 0.3) -> Callable[[Desk], list[Glyph]]:
    return lambda d: [drawn(table[d.one_of(*table)], d.rng, sloppy)]


def a_word(d: Desk) -> list[Glyph]:
    known = [word for word in WORDS.split() if set(word) <= set(IN_WORDS)]
    return [drawn(IN_WORDS[c], d.rng, 0.3) for c in d.one_of(*known)]


def of_type(texts: Callable[[Desk], str]) -> Drawer:
    def draw(d: Desk) -> Scene:
        text, screen = texts(d), d.chance(0.5)
        plane = (
            user_interface(d, d.shape(240, 800), dark := d.chance(0.4)) if screen else paper(d.rng, d.shape(300, 900))
        )
        tone = d.between(0.75, 1) if screen and dark else d.between(0, 0.3)
        pen = Pen("type", (tone, tone, tone), 0, 0.95)
        high = 0.6 if len(text) == 1 else 0.2
        ink = fitting(typed(d, text, d.digit_height(plane.shape[:2], 0.08, high)), plane.shape, 0.7)
        place(d, plane, ink, pen, 0.14)
        picture = (255 * np.clip(plane, 0, 1)).astype(np.uint8)
        return encoded(picture, int(d.between(40, 95))) if screen else photographed(d, plane), ""

    return draw


def empty_page(d: Desk) -> Scene:
    return photographed(d, paper(d.rng, d.shape()), shadows=0.3), ""


def empty_rules(d: Desk) -> Scene:
    sheet = paper(d.rng, d.shape())
    kind = d.one_of("ruled", "squared", "dotted", "graph", "primer")
    rule(d.rng, sheet, kind, d.digit_height(sheet.shape[:2], 0.08, 0.35))
    return photographed(d, sheet), ""


def empty_form(d: Desk) -> Scene:
    sheet = paper(d.rng, d.shape(400, 900))
    cell = d.between(40, 110)
    colour, thick = form_line(d, cell)
    kind, count = d.one_of("boxes", "comb", "separate"), int(d.rng.integers(1, 9))
    x, y, gap = 0.3 * cell, d.between(0.1, 0.6) * len(sheet), 0.2 * cell if kind == "separate" else 0
    for i in range(count):
        left = x + i * (cell + gap)
        cell_lines(sheet, kind, (left, y, left + cell, y + 1.2 * cell), colour, thick, first=i == 0)
    return photographed(d, sheet), ""


def empty_desk(d: Desk) -> Scene:
    return on_desk(d, a_sheet(d), cut=float(d.rng.choice([0, 0.1]))), ""


def empty_board(d: Desk) -> Scene:
    kind = d.one_of("chalkboard", "whiteboard", "dark paper")
    plane = board(d.rng, d.shape(), kind)
    plane = glare(d.rng, plane, int(d.rng.integers(1, 4))) if kind == "whiteboard" else plane
    return photographed(d, plane, shadows=0.3), ""


def only_shadow(d: Desk) -> Scene:
    sheet = paper(d.rng, d.shape())
    sheet = sheet * shadow(d.rng, sheet.shape[:2])
    return photographed(d, sheet, shadows=0.5), ""


def dots(d: Desk) -> Scene:
    """A dot or a few, or a blot."""
    sheet, pen = paper(d.rng, d.shape()), any_pen(d.rng, ["ballpoint", "felt", "marker"])
    ink = np.zeros(sheet.shape[:2], np.float32)
    for _ in range(int(d.rng.choice([1, 1, 2, 3, 6]))):
        at = (int(d.between(0.15, 0.85) * ink.shape[1]), int(d.between(0.15, 0.85) * ink.shape[0]))
        radius = max(2, int(d.between(0.004, 0.02) * max(ink.shape)))
        size = (radius, max(2, int(radius * d.between(0.7, 1.2))))
        cv2.ellipse(ink, at, size, d.between(0, 180), 0, 360, 1.0, -1, cv2.LINE_AA)
    put(sheet, ink, pen, 0, 0)
    return photographed(d, sheet), ""


def a_photo(d: Desk) -> Scene:
    """Part of a photograph of something else."""
    whole = photo(d.one_of(*PHOTOS.split()))
    height, width = (int(side * d.between(0.5, 1)) for side in whole.shape[:2])
    y, x = (int(d.between(0, side - part)) for side, part in zip(whole.shape, (height, width), strict=False))
    part = whole[y : y + height, x : x + width]
    part = part[:, ::-1] if d.chance(0.5) else part
    return encoded(*camera(d.rng, np.ascontiguousarray(part) * light(d.rng, part.shape[:2]))), ""


# What people reported


def around(kind: str) -> Drawer:
    """A digit with a drawn circle, a drawn box or an underline."""

    def draw(d: Desk) -> Scene:
        plane, text, pen = paper(d.rng, d.shape()), d.number(1, 1), any_pen(d.rng)
        height = d.digit_height(plane.shape[:2], 0.12, 0.4)
        ink = np.pad(d.written(text, height, pen), int(0.75 * height))
        y, x = np.array(ink.shape) / 2
        high, wide = height * d.between(0.68, 0.95), max(ink.shape[1] / 2 - 0.3 * height, height * d.between(0.55, 0.9))
        wobble = 0.03 * height
        if kind == "circle":
            high, wide = 0.6 * (high + np.hypot(high, wide) * 0.4), 0.62 * (wide + np.hypot(high, wide) * 0.4)
            way = ring(x, y, wide * 1.05, high * 1.05, d.between(0, 1), d.between(0.97, 1.08))
            way = way + d.rng.normal(0, 0.3 * wobble, 2)
        elif kind == "box":
            corners = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1], [-1, -1.03]]) * (wide, min(high, y - 4)) + (x, y)
            way = segments(curve(corners + d.rng.normal(0, wobble, corners.shape), 1, 0.05))
        else:
            low = y + height * d.between(0.58, 0.72)
            ends = np.array([[x - wide, low], [x, low], [x + wide, low]]) + d.rng.normal(0, wobble, (3, 2))
            way = segments(ends if d.chance(0.7) else np.concatenate([ends, ends[::-1] + np.array([0, 0.13 * height])]))
        mark = np.zeros(ink.shape, np.uint8)
        thick = max(1, round(2 * pen.radius * height * d.between(0.7, 1.2)))
        cv2.polylines(mark, list(np.round(way * 8).astype(np.int32)), False, 255, thick, cv2.LINE_AA, 3)
        ink = np.maximum(ink, mark.astype(np.float32) / 255)
        place(d, plane, fitting(cropped(ink), plane.shape, 0.7), pen, 0.14)
        return photographed(d, plane), text

    return draw


def panel(d: Desk) -> Scene:
    """A light digit on a dark panel that has a white border: a house number, a sticker, a bib."""
    shape = d.shape(260, 800)
    plane = np.ones((*shape, 3), np.float32) * d.between(0.85, 1)
    border = int(min(shape) * d.between(0.04, 0.16))
    inner = plane[border:-border, border:-border]
    inner[:] = d.rng.uniform(0, 0.3, 3) * (1, 1, d.between(1, 1.8))
    bright = replace(any_pen(d.rng, ["felt", "marker"]), colour=(0.95, 0.95, 0.93), opacity=0.97)
    text = one_digit(d, inner, bright, 0.35, 0.75)
    return photographed(d, plane, turn=0), text


def hollow(d: Desk) -> Scene:
    sheet = paper(d.rng, d.shape())
    pen = replace(any_pen(d.rng, ["gel", "felt"]), hollow=True, radius=d.between(0.045, 0.065), grain=0.0)
    text = one_digit(d, sheet, pen, 0.2, 0.65)
    return photographed(d, sheet), text


def tight(d: Desk) -> Scene:
    """Cropped to the digit's own box."""
    text, pen = d.number(1, 1), any_pen(d.rng)
    ink = cropped(d.written(text, d.between(60, 400), pen), 0)
    ink = np.pad(ink, int(d.between(0, 0.04) * len(ink)))
    sheet = paper(d.rng, ink.shape)
    put(sheet, ink, pen, 0, 0)
    return photographed(d, sheet, turn=0, shadows=0), text


def thick(d: Desk) -> Scene:
    sheet = paper(d.rng, d.shape())
    pen = replace(any_pen(d.rng, ["marker"]), radius=d.between(0.09, 0.12))
    text = one_digit(d, sheet, pen, 0.15, 0.7)
    return photographed(d, sheet), text


def framed(d: Desk) -> Scene:
    """A frame along the picture's edge, as scanners and screenshots leave it."""
    sheet = paper(d.rng, d.shape())
    text = one_digit(d, sheet, any_pen(d.rng), 0.15, 0.6)
    sheet = sheet * light(d.rng, sheet.shape[:2])
    wide, dark = max(1, int(min(sheet.shape[:2]) * d.between(0.004, 0.05))), d.between(0, 0.25)
    for side in range(4):
        if side < 2 or d.chance(0.85):
            np.rot90(sheet, side)[:wide] = dark
    return encoded(*camera(d.rng, sheet)), text


def a_text(texts: Callable[[Desk], str], sizes: Callable[[Desk, str], list[float]] | None = None) -> Drawer:
    def draw(d: Desk) -> Scene:
        text, pen = texts(d), any_pen(d.rng)
        ink = d.written(text, d.between(40, 200), pen, gap=(0.12, 0.35), sizes=sizes(d, text) if sizes else ())
        sheet = paper(d.rng, strip(d, ink))
        place(d, sheet, ink, pen, 0.05)
        return photographed(d, sheet, turn=3, margin=0.045), text

    return draw


def small_zeros(d: Desk, text: str) -> list[float]:
    small = d.between(0.45, 0.65)
    return [1.0] + [small] * (len(text) - 1)


@dataclass(frozen=True)
class Row:
    """A row of the table.

    Args:
        title: what the table calls it.
        kinds: how its pictures are drawn, by name; they take turns.
        target: wrong answers that are allowed, in percent; None: not asked for.
    """

    title: str
    kinds: dict[str, Drawer]
    target: float | None = None


ROWS = {
    "blank": Row("blank page; canvas", {"blank page": blank_page, "canvas": canvas}, 1),
    "light": Row(
        "uneven light, shadows, noise, JPEG",
        {"shadow": shadowed, "uneven light": uneven, "noise": noisy, "JPEG": compressed},
        2,
    ),
    "lined": Row(
        "ruled, squared, dotted paper",
        {kind: on_rules(kind) for kind in ("ruled", "squared", "dotted")} | {"other rules": on_rules("primer graph")},
        4,
    ),
    "desk": Row(
        "a sheet on a desk, turned, in perspective",
        {"sheet on a desk": sheet_on_desk, "cut off": sheet_cut_off, "sticky note": sticky_note},
        6,
    ),
    "boards": Row(
        "chalkboard, whiteboard, dark mode",
        {kind: on_board(kind) for kind in ("chalkboard", "whiteboard", "dark paper")} | {"dark mode": dark_mode},
        3,
    ),
    "line": Row(
        "a line of digits",
        {
            "line": a_line(),
            "broken": a_line(gaps=True),
            "ruled line": a_line(rules="ruled squared dotted"),
            "spaced": a_line(gap=(0.4, 1.0), most=6),
        },
        8,
    ),
    "touching": Row("a line of digits that touch", {"touching": a_line(2, 6, gap=(-0.08, -0.015))}, 30),
    "lines": Row("two to four lines: lists, blocks, sums", {"list": a_list, "block": a_block, "sum": a_sum}, 12),
    "boxes": Row(
        "form boxes, combs",
        {
            "one box": form("boxes", 1, 1),
            "boxes": form("boxes"),
            "comb": form("comb"),
            "separate boxes": form("separate"),
        },
        5,
    ),
    "screens": Row(
        "screenshots, typed numbers",
        {
            "screenshot, one digit": screenshot(1, 1),
            "screenshot": screenshot(2, 8),
            "printed": printed,
        },
        2,
    ),
    "none": Row(
        "no digit at all: answered with p >= 0.9 (answered at all)",
        {
            "letter": by_hand(drawn_from(LETTERS)),
            "word": by_hand(a_word, 0.25, gap=(0.03, 0.15)),
            "typed letter": of_type(lambda d: d.one_of(*"ABCDEFGHJKLMNPQRTUVWXYadefhkmnprtuvwxy")),
            "typed words": of_type(lambda d: " ".join(d.rng.choice(WORDS.split(), int(d.rng.integers(1, 4))))),
            "scribble": by_hand(lambda d: [scribble(d.rng)], 0.4),
            "symbol": by_hand(drawn_from(SYMBOLS)),
            "typed symbol": of_type(lambda d: d.one_of(*"?!#%&@*§€$→★♥✓✗Ωπ∑☺")),
            "face": by_hand(lambda d: [face(d.rng)], 0.4),
            "photo": a_photo,
            "empty page": empty_page,
            "empty rules": empty_rules,
            "empty form": empty_form,
            "empty sheet on a desk": empty_desk,
            "empty board": empty_board,
            "shadow only": only_shadow,
            "dots": dots,
        },
        3,
    ),
    "circled": Row("circled digit", {"circled": around("circle")}),
    "panel": Row("light digit on a dark panel with a white border", {"panel": panel}),
    "drawn box": Row("in a drawn box", {"drawn box": around("box")}),
    "hollow": Row("hollow digit", {"hollow": hollow}),
    "tight": Row("tight crop", {"tight": tight}),
    "thick": Row("thick marker", {"thick": thick}),
    "underlined": Row("underlined", {"underlined": around("underline")}),
    "frame": Row("a frame at the picture's edge", {"frame": framed}),
    "11": Row("11", {"11": a_text(lambda d: "11")}),
    "3.14": Row(
        "3.14", {"decimal": a_text(lambda d: "3.14" if d.chance(0.5) else f"{d.number(1, 2)}.{d.number(1, 2)}")}
    ),
    "-7": Row("-7", {"minus": a_text(lambda d: "-7" if d.chance(0.5) else f"-{d.number(1, 2)}")}),
    "1000": Row("1000 with small zeros", {"small zeros": a_text(lambda d: d.one_of(*"1234567") + "000", small_zeros)}),
    "beside a word": Row("a typed number beside a word", {"beside a word": screenshot(1, 6, word=True)}),
    "two lines": Row("two lines", {"two lines": lambda d: some_lines(d, [d.number(1, 4), d.number(1, 4)])}),
}


def fonts(folder: Path | None = None) -> tuple[Path, ...]:
    """The fonts in a folder, or those that come with matplotlib."""
    if folder:
        return tuple(sorted(path for path in folder.rglob("*") if path.suffix.lower() in (".ttf", ".otf")))
    ours = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    return tuple(ours / f"{name}.ttf" for name in TEXT_FONTS.split())


def draw(row: str, index: int, seed: int, digits: Digits, type_faces: tuple[Path, ...] = ()) -> Picture:
    """The picture of a row with this index; the same for the same seed, whatever else is drawn."""
    kinds = list(ROWS[row].kinds)
    kind = kinds[index % len(kinds)]
    rng = np.random.default_rng([seed, zlib.crc32(row.encode()), index])
    file, text = ROWS[row].kinds[kind](Desk(rng, digits, type_faces or fonts()))
    return Picture(row, kind, text, file)
