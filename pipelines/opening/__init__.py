"""Finds or makes the store of a run, and chooses its engine."""
