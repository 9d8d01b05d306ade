"""Benchmarks: every figure in the documentation comes from a command here.

`textbook`, `throughput`, `precisions`, `allocation`, `scaling`, `layouts`, `opening`, `heads`,
`stacked`, `ridge`, `probing` and `views` are commands; ``make bench`` runs them all. `book`,
`raydata`, `alone` and `bases` are what they start in processes of their own.
"""
