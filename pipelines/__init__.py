"""Hoarfrost's Apache Beam pipelines: image shards to a feature store."""

from featurestore.cli import startup as _startup  # noqa: F401
