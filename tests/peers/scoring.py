"""Score a submission as the competition does: RMSE over all values, against the true pictures."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

ROWS = 75 * 75 * 3


def scorer(truth: Path, channel_order: str = "bgr") -> Callable[[bytes], str]:
    """A function that scores a file's bytes; ``truth`` is a folder of unmasked pictures."""

    def score(content: bytes) -> str:
        lines = gzip.decompress(content).decode().splitlines()[1:]
        squares = []
        for start in range(0, len(lines), ROWS):
            block = [line.rsplit(",", 1) for line in lines[start : start + ROWS]]
            name, _, top, left, _ = block[0][0].rsplit("_", 4)
            box = (int(left), int(top), int(left) + 75, int(top) + 75)
            true = np.asarray(Image.open(truth / name).convert("RGB").crop(box)) / 255
            true = true[..., ::-1] if channel_order == "bgr" else true
            squares.append((np.array([float(value) for _, value in block]) - true.ravel()) ** 2)
        return f"{np.sqrt(np.mean(squares)):.5f}"

    return score
