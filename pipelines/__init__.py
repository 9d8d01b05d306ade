"""Hoarfrost's Apache Beam pipelines: image shards to a feature store."""
