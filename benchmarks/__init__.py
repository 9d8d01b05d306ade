"""Benchmarks: every figure in the documentation comes from a command here.

`throughput`, `precisions`, `scaling`, `store`, `heads` and `textbook` are commands; ``make bench``
runs them all. `book`, `raydata`, `alone` and `bases` are what they start in processes of their own.
"""
