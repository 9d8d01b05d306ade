"""Gradient training of many heads at once, over one stream of the features.

Heads of one structure lie side by side in the same arrays, so that a step of 32 linear heads is one
matrix product forward and one back. Groups of heads run in threads, one BLAS thread each; a kernel
is updated in pieces that stay in a core's cache, right after the product that made their gradient.
NumPy does all of it: nothing is compiled, and on a CPU a step is bound by the memory that weights
and slots need, not by arithmetic.
"""
