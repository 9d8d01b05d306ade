"""How far a head can be trusted: intervals, calibration, confusions, learning curves.

Pure functions on arrays first; `judging` reads a store and puts them together.
"""
