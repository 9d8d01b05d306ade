"""Scores at scale: the heads of a run over a store, or over images whose features are not kept."""
