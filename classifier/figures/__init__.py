"""Matplotlib figures and how they are written."""
