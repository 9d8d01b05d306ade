"""Checks that a store holds what was committed."""
