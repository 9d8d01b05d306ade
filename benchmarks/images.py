"""Real image files to measure on: crops of photographs, as JPEG of 500 by 375 pixels."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
from PIL import Image

HEIGHT, WIDTH = 375, 500
CLASSES = ("china", "flower")
# Pixels of the smallest crop of a random size.
LEAST_SIDE = 96
# scikit-image's photographs that are large enough, where it is installed.
MORE_PHOTOGRAPHS = (
    "astronaut",
    "coffee",
    "rocket",
    "retina",
    "hubble_deep_field",
    "chelsea",
    "immunohistochemistry",
)


def write_photographs(folder: Path, count: int) -> Path:
    """Writes distinct JPEG files in two classes, cut from scikit-learn's two photographs.

    Args:
      folder: gets ``train/china/*.jpg`` and ``train/flower/*.jpg``.
      count: number of files.

    Returns:
      The folder that holds the class folders.
    """
    from sklearn.datasets import load_sample_images

    photographs = load_sample_images().images
    random = np.random.default_rng(0)
    for index in range(count):
        label = index % 2
        path = folder / "train" / CLASSES[label] / f"{index:05d}.jpg"
        _write_crop(photographs[label], path, random)
    return folder / "train"


def write_varied(folder: Path, count: int) -> None:
    """Writes distinct JPEG files cut in turn from every photograph that is installed.

    Args:
      folder: gets ``*.jpg``.
      count: number of files.
    """
    random = np.random.default_rng(1)
    large = [image for image in photographs().values() if _fits(image)]
    sources = itertools.cycle(large)
    for index, photograph in zip(range(count), sources, strict=False):
        _write_crop(photograph, folder / f"{index:05d}.jpg", random)


def write_crops(folder: Path, count: int) -> None:
    """Writes distinct JPEG files of random sizes, cut in turn from every photograph.

    Args:
      folder: gets ``PHOTOGRAPH/*.jpg``.
      count: number of files.
    """
    random = np.random.default_rng(2)
    sources = itertools.cycle(photographs().items())
    for index, (name, photograph) in zip(range(count), sources, strict=False):
        height, width = photograph.shape[:2]
        side = int(random.integers(LEAST_SIDE, min(height, width) + 1))
        top, left = random.integers(0, height - side + 1), random.integers(0, width - side + 1)
        path = folder / name / f"{index:05d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(photograph[top : top + side, left : left + side]).save(path, quality=92)


def photographs() -> dict[str, np.ndarray]:
    """Returns every photograph that is installed: name -> uint8 (height, width, 3)."""
    from sklearn.datasets import load_sample_images

    found = load_sample_images()
    result = {Path(n).stem: image for n, image in zip(found.filenames, found.images, strict=True)}
    try:
        from skimage import data
    except ImportError:
        return result
    return result | {name: getattr(data, name)()[..., :3] for name in MORE_PHOTOGRAPHS}


def _fits(photograph: np.ndarray) -> bool:
    return photograph.shape[0] >= HEIGHT and photograph.shape[1] >= WIDTH


def _write_crop(photograph: np.ndarray, path: Path, random: np.random.Generator) -> None:
    """Writes a crop with a little noise, as a camera has it, so that no two files are equal."""
    height, width = photograph.shape[:2]
    top, left = random.integers(0, height - HEIGHT + 1), random.integers(0, width - WIDTH + 1)
    crop = photograph[top : top + HEIGHT, left : left + WIDTH]
    noisy = np.clip(crop + random.normal(0, 4, crop.shape), 0, 255).astype(np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(noisy).save(path, quality=90)


def write_copies(source: Path, target: Path, count: int) -> None:
    """Writes many distinct JPEG files fast: copies that differ in a comment.

    Decoding a copy costs as much as decoding the original, and no two contents are equal.

    Args:
      source: a folder of class folders of JPEG files.
      target: a new folder; gets the same class folders.
      count: number of files.
    """
    originals = sorted(source.glob("*/*.jpg"))
    contents = {path: path.read_bytes() for path in originals}
    for index, original in zip(range(count), itertools.cycle(originals), strict=False):
        path = target / original.parent.name / f"{index:06d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(with_comment(contents[original], f"copy {index}".encode()))


def with_comment(jpeg: bytes, comment: bytes) -> bytes:
    """Returns a JPEG file with a comment segment behind its first marker (ITU T.81, B.2.4.5)."""
    segment = b"\xff\xfe" + (len(comment) + 2).to_bytes(2, "big") + comment
    return jpeg[:2] + segment + jpeg[2:]
