"""How good a head is, and what it predicts: figures, intervals, calibration, predictions.

`judge` reads a store and combines the functions on arrays in the other modules.
"""
