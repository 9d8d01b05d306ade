"""Digests of all stored images in sorted files, for planning without reading the store."""
