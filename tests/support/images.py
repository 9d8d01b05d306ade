"""Real image files."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image


def png_bytes(pixels: np.ndarray) -> bytes:
    """Encodes uint8 pixels as PNG."""
    return encode(pixels, "PNG")


def encode(pixels: np.ndarray, kind: str, **settings) -> bytes:
    """Encodes uint8 pixels as an image file."""
    sink = io.BytesIO()
    Image.fromarray(pixels).save(sink, kind, **settings)
    return sink.getvalue()


def write_images(folder: Path, count: int, kind: str = "JPEG", seed: int = 0) -> list[Path]:
    """Writes distinct small photographs-like images in two classes, ``cat`` and ``dog``."""
    random = np.random.default_rng(seed)
    paths = []
    for index in range(count):
        coarse = random.integers(0, 256, (6, 8, 3), np.uint8)
        image = Image.fromarray(coarse).resize((64, 48), Image.Resampling.BICUBIC)
        path = folder / ("cat", "dog")[index % 2] / f"{index:05d}.{kind.lower()[:4]}"
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path, kind)
        paths.append(path)
    return paths
