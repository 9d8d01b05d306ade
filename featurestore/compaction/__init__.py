"""Merges small parts of a store, and writes snapshots that other programs read."""
