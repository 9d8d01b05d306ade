"""Gradient training of many heads at once, over one stream of the features.

Heads of one structure lie side by side in the same arrays, so a step of 32 linear heads is one
matrix product forward and one back. Groups of heads run in threads, with one BLAS thread each. A
kernel is updated in pieces that stay in a core's cache, right after the product that made their
gradient. NumPy does all of it and nothing is compiled: on a CPU the memory of weights and slots
bounds the speed of a step, not arithmetic.
"""
