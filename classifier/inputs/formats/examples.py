"""Parses and encodes ``tf.train.Example`` by the protobuf runtime, without TensorFlow.

The messages are those of tensorflow/core/example/{example,feature}.proto: a map from names to
lists of bytes, floats or integers. Here they are declared in a pool of their own, so that
TensorFlow's may be loaded beside them.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

from google.protobuf import (
    descriptor_pb2,
    descriptor_pool,
    message,
    message_factory,
    unknown_fields,
)

_FIELD = descriptor_pb2.FieldDescriptorProto
_KINDS = (
    ("bytes_list", "BytesList", _FIELD.TYPE_BYTES),
    ("float_list", "FloatList", _FIELD.TYPE_FLOAT),
    ("int64_list", "Int64List", _FIELD.TYPE_INT64),
)
Values = Sequence[Any]


def parse_example(data: bytes) -> dict[str, Values]:
    """Parses a record.

    Args:
      data: a serialised ``tf.train.Example``.

    Returns:
      Each feature's values: bytes, floats or ints; empty for a feature without a kind.

    Raises:
      ValueError: for what is not an Example.

    Example:
      >>> parse_example(encode_example({"label": [3], "name": [b"cat"]})) == {
      ...     "label": [3], "name": [b"cat"]}
      True
    """
    try:
        example = _example_class().FromString(data)
    except message.DecodeError as error:
        raise ValueError(f"not a tf.train.Example: {error}") from error
    result: dict[str, Values] = {}
    for name, feature in example.features.feature.items():
        kind = feature.WhichOneof("kind")
        result[name] = list(getattr(feature, kind).value) if kind else []
    return result


def has_feature_lists(data: bytes) -> bool:
    """Whether a record is a ``tf.train.SequenceExample``, whose lists are in field 2."""
    fields: Any = unknown_fields.UnknownFieldSet(_example_class().FromString(data))
    return any(field.field_number == 2 for field in fields)


def encode_example(features: Mapping[str, Values]) -> bytes:
    """Serialises features; equal features give equal bytes.

    Args:
      features: lists of bytes or of ints; an empty list is one of bytes.
    """
    example = _example_class()()
    for name, values in features.items():
        integers = bool(values) and isinstance(values[0], int)
        feature = example.features.feature[name]
        (feature.int64_list if integers else feature.bytes_list).value.extend(values)
    return example.SerializeToString(deterministic=True)


@functools.cache
def _example_class() -> Any:
    file = descriptor_pb2.FileDescriptorProto(
        name="hoarfrost/example.proto", package="hoarfrost", syntax="proto3"
    )
    for _, kind, kind_type in _KINDS:
        _add_field(file.message_type.add(name=kind), "value", 1, kind_type, repeated=True)
    feature = file.message_type.add(name="Feature")
    feature.oneof_decl.add(name="kind")
    for number, (name, kind, _) in enumerate(_KINDS, 1):
        _add_field(feature, name, number, f".hoarfrost.{kind}").oneof_index = 0
    features = file.message_type.add(name="Features")
    entry = features.nested_type.add(name="FeatureEntry")
    entry.options.map_entry = True
    _add_field(entry, "key", 1, _FIELD.TYPE_STRING)
    _add_field(entry, "value", 2, ".hoarfrost.Feature")
    _add_field(features, "feature", 1, ".hoarfrost.Features.FeatureEntry", repeated=True)
    _add_field(file.message_type.add(name="Example"), "features", 1, ".hoarfrost.Features")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("hoarfrost.Example"))


def _add_field(owner: Any, name: str, number: int, kind: int | str, repeated: bool = False) -> Any:
    field = owner.field.add(name=name, number=number)
    field.label = _FIELD.LABEL_REPEATED if repeated else _FIELD.LABEL_OPTIONAL
    if isinstance(kind, str):
        field.type, field.type_name = _FIELD.TYPE_MESSAGE, kind
    else:
        field.type = kind
    return field
