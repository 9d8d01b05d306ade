"""The only modules that import Apache Beam."""
