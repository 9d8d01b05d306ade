"""Hoarfrost's classifier: frozen bases, pixels, engines, and heads on stored features.

Adds TensorFlow to what the feature store needs; Apache Beam is never imported here. TensorFlow
itself is imported by the functions that compute, so that a module's `--help` answers at once.
"""

from featurestore.cli import startup as _startup  # noqa: F401
