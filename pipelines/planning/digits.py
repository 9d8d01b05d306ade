"""The built-in sample: scikit-learn's 1,797 handwritten digits as PNG files, split by class.

The digits are the test set of the UCI "Optical Recognition of Handwritten Digits" data, 8 by 8
pixels with 17 grey levels (E. Alpaydin and C. Kaynak, 1998), shipped inside scikit-learn.
"""

from __future__ import annotations

import shutil
import tempfile
from contextlib import suppress
from pathlib import Path

import numpy as np

from featurestore.errors import UsageError, cannot_write

SPLIT_SHARES = (("train", 0.6), ("validation", 0.2), ("test", 0.2))
SEED = 0


def write_digits(folder: Path) -> int:
    """Writes the digits below `folder` as split/class/number.png, unless they are there.

    Args:
      folder: it appears complete or not at all.

    Returns:
      The number of images.

    Raises:
      UsageError: when scikit-learn is not installed, or when `folder` holds something else.
    """
    if folder.is_dir():
        count = sum(1 for _ in folder.glob("*/*/*.png"))
        if count:
            return count
        raise UsageError(
            f"{folder} exists but holds no digits; remove it, or give your own images with --input"
        )
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise UsageError(
            "the built-in sample needs scikit-learn: pip install 'hoarfrost[sample]', or give your "
            "own images with --input FOLDER"
        ) from error
    from PIL import Image

    digits = load_digits()
    try:
        draft = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    except OSError as error:
        fix = "change to a folder that you may write to, or give your own images with --input"
        raise cannot_write("the built-in sample", str(folder), error, fix) from error
    try:
        for index, split in enumerate(_splits(len(digits.images))):
            target = draft / split / str(digits.target[index])
            target.mkdir(parents=True, exist_ok=True)
            grey = np.round(digits.images[index] * (255 / 16)).astype(np.uint8)
            Image.fromarray(grey).save(target / f"{index:04d}.png")
        draft.chmod(0o755)
        # Another run may have written the same files meanwhile.
        with suppress(OSError):
            draft.rename(folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return len(digits.images)


def _splits(count: int) -> list[str]:
    order = np.random.default_rng(SEED).permutation(count)
    ends = np.cumsum([round(share * count) for _, share in SPLIT_SHARES[:-1]])
    names = np.empty(count, object)
    for (name, _), places in zip(SPLIT_SHARES, np.split(order, ends), strict=True):
        names[places] = name
    return names.tolist()
