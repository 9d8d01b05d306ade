"""The page of a run: what it wrote, on one self-contained HTML page."""
