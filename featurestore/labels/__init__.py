"""Labels and splits: from a table's cells to the rows of a store."""
