"""Hoarfrost's Apache Beam pipelines: image shards to a feature store."""

from featurestore import starting as _starting  # noqa: F401  (before what takes long)
