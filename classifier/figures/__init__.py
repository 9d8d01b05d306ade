"""Draws Matplotlib figures, and writes them as PNG files and SVG elements."""
