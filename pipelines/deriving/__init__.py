"""Derives a store from another one: from its pixels, or from the maps of an earlier layer."""
