"""Shared by all commands: one-line errors, output, signals."""
