"""RGB to grey, the luma of ITU-R BT.601: ``0.299 R + 0.587 G + 0.114 B``, rounded to a level.

The weights are Pillow's, 16-bit fractions that sum to 1, so that a grey pixel keeps its level and
the result equals Pillow's ``convert("L")``. `classifier.base.preprocess` has the same formula as a
graph, which is exact in float32.
"""

from __future__ import annotations

import numpy as np

# Of red, green and blue, in parts of 65,536.
WEIGHTS = (19595, 38470, 7471)


def to_grey(pixels: np.ndarray) -> np.ndarray:
    """Converts RGB pixels.

    Args:
      pixels: uint8 (n, H, W, 3).

    Returns:
      uint8 (n, H, W, 1).

    Example:
      >>> to_grey(np.array([[[[255, 0, 0], [7, 7, 7]]]], np.uint8)).ravel()
      array([76,  7], dtype=uint8)
    """
    from PIL import Image

    # One picture under the other.
    stacked = Image.fromarray(np.ascontiguousarray(pixels).reshape(-1, *pixels.shape[2:]))
    return np.asarray(stacked.convert("L")).reshape(*pixels.shape[:3], 1)
