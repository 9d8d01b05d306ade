"""Decodes an image file to `uint8 (H, W, 3)`, and draws augmented views of it."""
