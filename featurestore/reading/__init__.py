"""Reads stored rows: which of them count, and how they stream into memory."""
