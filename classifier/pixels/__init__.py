"""From an image file's bytes to `uint8 (H, W, 3)`, and its augmented views."""
