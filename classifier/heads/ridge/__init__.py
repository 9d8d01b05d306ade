"""Ridge regression from sums: statistics, passes over the rows, the fit."""
