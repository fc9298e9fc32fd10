"""How far a drawn mouth is open, measured on pixels."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ray_s2v.demo.faces import COLOURS, MOUTH_COLOUR, SHAPES, Look


def openings(pictures: NDArray[np.uint8], look: Look) -> NDArray[np.float64]:
    """How much of the place where the mouth can be has its colour rather than the face's, for each of [frames, height, width, 3]."""
    height, width = pictures.shape[1:3]
    side = min(height, width)
    middle = height / 2 + 0.45 * SHAPES[look.shape][1] * side
    rows = slice(round(middle - 0.12 * side), round(middle + 0.12 * side))
    columns = slice(round(width / 2 - 0.08 * side), round(width / 2 + 0.08 * side))
    face, mouth = (np.array(colour, float) for colour in (COLOURS[look.face], MOUTH_COLOUR))
    along = (pictures[:, rows, columns] - face) @ (mouth - face) / ((mouth - face) @ (mouth - face))
    return along.clip(0, 1).mean(axis=(1, 2))
