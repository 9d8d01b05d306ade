"""Ridge regression from sums: the statistics, the passes over the rows, the fit."""
