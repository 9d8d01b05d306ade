"""Engines: the compiled graph from uint8 pixels to features.

Preprocessing, base and pooling are one graph of one fixed batch size; a short batch is padded, so
that nothing is compiled twice. TensorFlow and OpenVINO are imported only when an engine is made.
"""

from classifier.engines.engine import Engine, EngineChoice, run_padded
from classifier.engines.loading import StoredBase, load_engine, serving_engine
from classifier.engines.tensorflow import TensorFlowEngine, limit_threads

__all__ = [
    "Engine",
    "EngineChoice",
    "StoredBase",
    "TensorFlowEngine",
    "limit_threads",
    "load_engine",
    "run_padded",
    "serving_engine",
]
