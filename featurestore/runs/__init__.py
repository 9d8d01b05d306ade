"""The runs of a store: their records, and those whose books are open."""
