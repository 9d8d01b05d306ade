"""Hoarfrost's Apache Beam pipelines: image shards to a feature store."""

from featurestore.cli import starting as _starting  # noqa: F401
