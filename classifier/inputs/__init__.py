"""Lists the images of an ``--input``, finds their labels and splits, and reads their bytes."""

from classifier.inputs.columns import Asked
from classifier.inputs.formats.tar import iter_tar
from classifier.inputs.listing import InputOptions, list_inputs, open_input
from classifier.inputs.reading import read_bytes, read_many
from classifier.inputs.refs import ImageRef, ShardDamaged, ShardRef
from classifier.inputs.shards import SHARD_ERRORS, iter_shard
from featurestore.ignored import Ignored

__all__ = [
    "SHARD_ERRORS",
    "Asked",
    "Ignored",
    "ImageRef",
    "InputOptions",
    "ShardDamaged",
    "ShardRef",
    "iter_shard",
    "iter_tar",
    "list_inputs",
    "open_input",
    "read_bytes",
    "read_many",
]
