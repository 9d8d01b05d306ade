"""Reads archives and record files as streams of images."""
