"""Reports of classifier.verify."""

from __future__ import annotations

from classifier.engines.reextraction import (
    compare,
    draw_rows,
)


def report_on(store, extractor, rows=100, seed=0):
    return compare(store, draw_rows(store, rows, seed), *extractor, {})
