"""Heads that Keras trains: convolutions, and layers of a base that are no longer frozen."""
