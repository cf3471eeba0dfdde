"""What the ink network should say of a page."""

import cv2
import numpy as np
from scipy import ndimage

from digits.ink.network import CELL, OFFSET_UNIT
from digits.ink.pages import Page

SMALLEST = 5  # pixels; what is smaller cannot be seen


def targets(page: Page) -> dict[str, np.ndarray]:
    """Targets of a page of side S.

    Returns:
        `clean` (1, S, S) uint8 from 0 to 255; of cells (S/4, S/4): `middle` float32, `offset` (2, ...) float32, `kind`
        int64, -1 where there is no mark, `weight` float32, the larger the smaller its mark is, and `angle`, the sine.
    """
    cells = len(page.labels) // CELL
    blocks = page.labels.reshape(cells, CELL, cells, CELL).max(axis=(1, 3))
    middle = np.zeros((cells, cells), np.float32)
    offset = np.zeros((2, cells, cells), np.float32)
    weight = np.zeros((cells, cells), np.float32)
    y, x = np.mgrid[0:cells, 0:cells].astype(np.float32) * CELL + (CELL - 1) / 2
    for number, where in enumerate(ndimage.find_objects(page.labels), start=1):
        if where is None:
            continue
        rows, columns = where
        size = max(rows.stop - rows.start, columns.stop - columns.start)
        if size < SMALLEST and page.kinds[number] == 0:
            continue
        at = (columns.start + columns.stop - 1) / 2, (rows.start + rows.stop - 1) / 2
        _add_peak(middle, at, max(0.6, 0.09 * size / CELL))
        own = blocks == number
        offset[0][own], offset[1][own] = (at[0] - x[own]) / OFFSET_UNIT, (at[1] - y[own]) / OFFSET_UNIT
        weight[own] = min(4.0, OFFSET_UNIT / max(size, SMALLEST))
    kinds = np.array(page.kinds, np.int64)[blocks]
    return {
        "clean": (page.clean * 255).astype(np.uint8)[None],
        "middle": middle,
        "offset": offset,
        "kind": np.where(weight > 0, kinds, -1),
        "weight": weight,
        "angle": np.sin(np.deg2rad(np.array(page.angle, np.float32))),
    }


def _add_peak(middle: np.ndarray, at: tuple[float, float], sigma: float) -> None:
    """Adds a bump with its top, 1, in the cell of a point in pixels."""
    column, row = (int(value // CELL) for value in at)
    reach = int(3 * sigma + 1)
    bump = cv2.getGaussianKernel(2 * reach + 1, sigma, cv2.CV_32F)
    bump = bump @ bump.T / bump.max() ** 2
    rows, columns = len(middle), middle.shape[1]
    y0, y1, x0, x1 = (
        max(0, row - reach),
        min(rows, row + reach + 1),
        max(0, column - reach),
        min(columns, column + reach + 1),
    )
    if y1 > y0 and x1 > x0:
        here = middle[y0:y1, x0:x1]
        np.maximum(here, bump[y0 - row + reach : y1 - row + reach, x0 - column + reach : x1 - column + reach], out=here)
