"""Frozen bases: which network, which weights, cut where."""
