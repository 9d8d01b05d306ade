"""The page of a run: its results in one self-contained HTML file."""
