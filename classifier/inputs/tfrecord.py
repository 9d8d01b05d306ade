"""Streams images out of TFRecord shards of ``tf.train.Example``, without TensorFlow.

A record is its length (uint64), the length's checksum, the data and the data's checksum, all
little-endian; checksums are CRC-32C, rotated and shifted ("masked"):
tensorflow/core/lib/io/record_writer.h and tensorflow/core/lib/hash/crc32c.h.
"""

from __future__ import annotations

import gzip
import struct
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from classifier.inputs import tfds
from classifier.inputs.examples import Values, parse_example
from classifier.inputs.records import holds, records_of
from classifier.inputs.refs import (
    MAX_MEMBER_BYTES,
    ImageRef,
    ShardDamaged,
    ShardRef,
    UniqueNames,
)
from featurestore.ignored import Ignored
from featurestore.labels import member_name
from featurestore.steady import SteadyFile
from featurestore.storage import connect

IMAGE_FEATURES = ("image/encoded", "image")
NAME_FEATURES = ("image/filename", "file_name", "filename")
LABEL_FEATURES = ("image/class/text", "image/class/label", "label", "labels", "class")
SPLIT_FEATURES = ("image/split", "split")
_GZIP_MAGIC = b"\x1f\x8b"
_LENGTH = struct.Struct("<QL")
_CHECKSUM = struct.Struct("<L")


def iter_tfrecord(
    shard: ShardRef, storage_options: Mapping[str, Any] | None, ignored: Ignored
) -> Iterator[tuple[ImageRef, bytes | OSError]]:
    """Yields the images of a TFRecord file, gzip or not, with both checksums of each verified.

    Read are the ImageNet layout (``image/encoded``, ``image/class/text`` or ``/label``) and
    TensorFlow Datasets' (``image``, ``label`` and the names in ``label.labels.txt`` beside it).

    Args:
      shard: the file.
      storage_options: for its file system.
      ignored: collects the records without an image feature, by number.

    Yields:
      (reference, image file content), or an OSError for a record that is no Example. The key is
      ``<shard>/<file name>`` where the record has one that is unique, else the record's number.

    Raises:
      OSError: when the file cannot be read.
      ShardDamaged: at the first record that is cut or whose checksum is wrong.
    """
    fs, path = connect(shard.uri, storage_options)
    class_names = tfds.read_class_names(fs, path)
    wanted = records_of(shard.etag)
    unique = UniqueNames()
    with SteadyFile(fs, path) as file:
        for number, data in enumerate(read_records(file)):
            if number >= wanted[-1][1]:
                return
            is_wanted = holds(wanted, number)
            try:
                features = parse_example(data)
            except ValueError as error:
                name = unique.claim(str(number))
                if is_wanted:
                    yield shard.image(name, len(data)), OSError(str(error))
                continue
            image = next((features[name] for name in IMAGE_FEATURES if name in features), None)
            if image is None:
                if is_wanted:
                    ignored.add(f"{shard.key}/{number}")
                continue
            # Records that are passed over have their names too: a key never depends on the slice.
            name = unique.claim(member_name(_text(features, NAME_FEATURES)), str(number))
            if is_wanted:
                content = image[0] if image and isinstance(image[0], bytes) else b""
                split = _text(features, SPLIT_FEATURES) or None
                labels = labels_of(features, class_names)
                yield shard.image(name, len(content), labels, split), content


def labels_of(
    features: Mapping[str, Values], class_names: Mapping[str, Sequence[str]]
) -> tuple[str, ...]:
    """Returns an Example's labels, by name where names are known.

    Args:
      features: of the Example.
      class_names: of each integer feature, by its value.

    Example:
      >>> labels_of({"image/class/label": [3], "image/class/text": [b"cat"]}, {})
      ('cat',)
      >>> labels_of({"label": [1]}, {"label": ["cat", "dog"]})
      ('dog',)
    """
    for feature in (*LABEL_FEATURES, *class_names):
        if values := features.get(feature):
            names = class_names.get(feature, ())
            texts = (_label(value, names) for value in values)
            return tuple(text for text in texts if text)
    return ()


def _label(value: Any, names: Sequence[str]) -> str:
    if isinstance(value, bytes):
        return value.decode("utf-8", errors="replace")
    if isinstance(value, int) and names:
        # TensorFlow Datasets writes -1 where the label is withheld.
        return names[value] if 0 <= value < len(names) else "" if value < 0 else str(value)
    return str(value)


def _text(features: Mapping[str, Values], names: Sequence[str]) -> str:
    for name in names:
        values = features.get(name)
        if values and isinstance(values[0], bytes):
            return values[0].decode("utf-8", errors="replace")
    return ""


def masked_crc(data: bytes) -> int:
    """Returns the checksum as TFRecord stores it.

    Example:
      >>> hex(masked_crc(b"123456789"))
      '0xc78ab0e5'
    """
    import google_crc32c

    crc = google_crc32c.value(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def frame(data: bytes) -> bytes:
    """Returns a record as it lies in the file."""
    length = struct.pack("<Q", len(data))
    return b"".join(
        (length, _CHECKSUM.pack(masked_crc(length)), data, _CHECKSUM.pack(masked_crc(data)))
    )


def read_records(file: SteadyFile) -> Iterator[bytes]:
    """Yields the records of a TFRecord file; gzip is recognised by content.

    Args:
      file: at its start.

    Raises:
      ShardDamaged: at the first record that is cut or whose checksum is wrong; its offset is in
        the unpacked records where the file is compressed.
    """
    head = file.head(_LENGTH.size)
    packed = head[:2] == _GZIP_MAGIC and not _is_length(head)
    stream: Any = gzip.GzipFile(fileobj=file) if packed else file
    at = 0
    try:
        while data := _record(stream, at):
            yield data[0]
            at += _LENGTH.size + len(data[0]) + _CHECKSUM.size
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ShardDamaged(f"the compressed records are damaged or cut: {error}", at) from error


def _is_length(head: bytes) -> bool:
    return len(head) == _LENGTH.size and _LENGTH.unpack(head)[1] == masked_crc(head[:8])


def _record(stream: Any, at: int) -> tuple[bytes] | None:
    """Reads the record at `at`; None at the end of the file."""
    head = stream.read(_LENGTH.size)
    if not head:
        return None
    if len(head) < _LENGTH.size:
        raise ShardDamaged("the last record is cut", at)
    length, _ = _LENGTH.unpack(head)
    if not _is_length(head):
        raise ShardDamaged("the checksum of a record's length is wrong", at)
    if length > MAX_MEMBER_BYTES:
        raise ShardDamaged(f"a record of {length} bytes holds no image", at)
    data, checksum = stream.read(length), stream.read(_CHECKSUM.size)
    if len(data) < length or len(checksum) < _CHECKSUM.size:
        raise ShardDamaged("the last record is cut", at)
    if _CHECKSUM.unpack(checksum)[0] != masked_crc(data):
        raise ShardDamaged("the checksum of a record is wrong", at)
    return (data,)
