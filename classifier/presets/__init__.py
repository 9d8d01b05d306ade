"""Presets of KerasHub: where they are, their backbones, and how their pixels are prepared."""
