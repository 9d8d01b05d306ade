"""Stored rows on their way to a head: which, in what order, with what labels."""
