"""Where `BadImage` and `sniff` stood until version 0.2, for programs that import them from here."""

from classifier.pixels.filetypes import BAD_KINDS, BadImage, sniff

__all__ = ["BAD_KINDS", "BadImage", "sniff"]
