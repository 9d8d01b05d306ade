"""Decodes an image file to `uint8 (H, W, 3)`, and draws augmented views of it.

For a program of your own: `decode` turns the bytes of an image file into pixels, and raises
`BadImage` for a file that cannot be used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from classifier.pixels.decoder import decode
    from classifier.pixels.filetypes import BadImage

__all__ = ["BadImage", "decode"]


def __getattr__(name: str) -> Any:
    # On demand: whoever only looks at file types needs no decoder.
    if name == "decode":
        from classifier.pixels.decoder import decode

        return decode
    if name == "BadImage":
        from classifier.pixels.filetypes import BadImage

        return BadImage
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
