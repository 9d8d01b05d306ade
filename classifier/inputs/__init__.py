"""From an ``--input`` URI to images: listing, class and split names, bytes. No TensorFlow here."""

from classifier.inputs.listing import Ignored, InputOptions, list_inputs, open_input
from classifier.inputs.reading import read_bytes, read_many
from classifier.inputs.refs import ImageRef, ShardRef
from classifier.inputs.tar import SHARD_ERRORS, iter_tar

__all__ = [
    "SHARD_ERRORS",
    "Ignored",
    "ImageRef",
    "InputOptions",
    "ShardRef",
    "iter_tar",
    "list_inputs",
    "open_input",
    "read_bytes",
    "read_many",
]
