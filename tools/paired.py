"""Comparing two fills on the same pictures.

The same pictures are hard for both, so that a ratio of their errors is known better than either.
"""

from __future__ import annotations

import math

import numpy as np


def rmse_ratio(squares: np.ndarray, others: np.ndarray) -> tuple[float, np.ndarray]:
    """Ratio of two RMSEs, and how each picture moves it.

    Args:
        squares: mean square error of each picture, not all 0.
        others: the same of what is compared with.

    Returns:
        The ratio, and each picture's influence on it times their number (the delta method).
    """
    ratio = math.sqrt(squares.mean() / others.mean())
    return ratio, ratio / 2 * (squares / squares.mean() - others / others.mean())


def standard_error(influence: np.ndarray) -> float | None:
    """Standard error of a ratio, from each picture's influence on it; None of a single picture."""
    if len(influence) < 2:
        return None
    return float(influence.std(ddof=1) / math.sqrt(len(influence)))
