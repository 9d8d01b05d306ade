"""Frozen bases: the network, its weights and the layer it is cut at."""
