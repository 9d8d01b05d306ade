"""Streams images from TFRecord shards of ``tf.train.Example``, without TensorFlow.

A record is its length (uint64), the length's checksum, the data and the data's checksum, all
little-endian; checksums are CRC-32C, rotated and shifted ("masked"):
tensorflow/core/lib/io/record_writer.h and tensorflow/core/lib/hash/crc32c.h.
"""

from __future__ import annotations

import gzip
import itertools
import struct
import zlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from classifier.inputs.columns import Asked, Columns, LabelColumn
from classifier.inputs.formats import tfds
from classifier.inputs.formats.examples import Values, has_feature_lists, parse_example
from classifier.inputs.records import holds, records_of
from classifier.inputs.refs import (
    MAX_MEMBER_BYTES,
    ImageRef,
    ShardDamaged,
    ShardRef,
    UniqueNames,
    too_large,
)
from classifier.pixels.filetypes import sniff
from featurestore.ignored import Ignored
from featurestore.io.steady import SteadyFile
from featurestore.io.storage import connect
from featurestore.labels import cells
from featurestore.labels.columns import find_column, require_column
from featurestore.labels.splits import split_in_cell
from featurestore.labels.table import member_name

IMAGE_FEATURES = ("image/encoded", "image")
NAME_FEATURES = ("image/filename", "file_name", "filename")
LABEL_FEATURES = ("image/class/text", "image/class/label", "label", "labels", "class")
SPLIT_FEATURES = ("image/split", "split")
# So many records are searched for features; one without a value may lack its feature.
_HEAD = 16
# A reason of `Ignored.note`.
SEQUENCES = (
    "records are tf.train.SequenceExamples without an image of their own and were left out; write "
    "one tf.train.Example per image"
)
_GZIP_MAGIC = b"\x1f\x8b"
_LENGTH = struct.Struct("<QL")
_CHECKSUM = struct.Struct("<L")


def iter_tfrecord(
    shard: ShardRef, storage_options: Mapping[str, Any] | None, ignored: Ignored
) -> Iterator[tuple[ImageRef, bytes | OSError]]:
    """Yields the images of a TFRecord file, gzip or not; both checksums of a record are verified.

    Two layouts are known: ImageNet's (``image/encoded``, ``image/class/text`` or ``/label``) and
    TensorFlow Datasets' (``image``, ``label`` and the names in ``label.labels.txt`` beside it).

    Yields:
      As `classifier.inputs.shards.iter_shard`, with an OSError for what is not an Example. The key
      is ``<shard>/<file name>`` where the record has one that is unique, else the record's number.

    Raises:
      ShardDamaged: at the first record that is cut or whose checksum is wrong.
    """
    fs, path = connect(shard.uri, storage_options)
    records = _Records(shard, tfds.read_class_names(fs, path), ignored)
    wanted = records_of(shard.etag)
    with SteadyFile(fs, path) as file:
        try:
            for number, data in enumerate(read_records(file)):
                if number >= wanted[-1][1]:
                    return
                if found := records.image(number, data, holds(wanted, number)):
                    yield found
        finally:
            records.note_unlabelled()


class _Records:
    """The images of a shard's records, in order; it notes the records that hold none."""

    def __init__(
        self, shard: ShardRef, class_names: Mapping[str, Sequence[str]], ignored: Ignored
    ) -> None:
        self._shard, self._class_names, self._ignored = shard, class_names, ignored
        self._asked = Asked.of(shard.etag)
        self._unique = UniqueNames()
        self._is_labelled = False
        self._unlabelled: Columns | None = None

    def image(
        self, number: int, data: bytes, is_wanted: bool
    ) -> tuple[ImageRef, bytes | OSError] | None:
        """Returns a record's image; None for a record that holds none, or is not wanted.

        A record that is not wanted claims its name too: a key never depends on the slice.
        """
        try:
            features = parse_example(data)
        except ValueError as error:
            ref = self._shard.image(self._unique.claim(str(number)), data)
            return (ref, OSError(str(error))) if is_wanted else None
        columns = find_features(features, self._class_names, self._asked)
        images = features.get(columns.image) if columns.image else _by_content(features)
        if images is None:
            if is_wanted:
                self._leave_out(number, data)
            return None
        name = self._unique.claim(member_name(_text(features, NAME_FEATURES)), str(number))
        if not is_wanted:
            return None
        self._is_labelled |= bool(columns.label)
        if not columns.label and columns.others:
            self._unlabelled = self._unlabelled or columns
        labels = cells.labels_of(features.get(columns.label), columns.class_names)
        split = split_in_cell(_text(features, (columns.split,)))
        content = _content(images)
        return self._shard.image(name, content, labels, split), content

    def _leave_out(self, number: int, data: bytes) -> None:
        name = f"{self._shard.key}/{number}"
        if has_feature_lists(data):
            self._ignored.leave_out(SEQUENCES, name)
        else:
            self._ignored.add(name)

    def note_unlabelled(self) -> None:
        """Notes a shard without labels; single records may lack theirs."""
        columns = self._unlabelled
        if columns and (columns.is_unclear or not self._is_labelled):
            columns.note_unlabelled(self._shard.key, self._ignored)


def _by_content(features: Mapping[str, Values]) -> Values | None:
    """Returns the images of a record whose features have other names."""
    found = [
        values
        for values in features.values()
        if values and isinstance(values[0], bytes) and sniff(values[0])
    ]
    return found[0] if len(found) == 1 else [value for values in found for value in values] or None


def _content(images: Values) -> bytes | OSError:
    if len(images) > 1:
        return OSError(
            f"the record holds {len(images)} images, and it is unknown which one the label means; "
            "write one image per record"
        )
    return images[0] if images and isinstance(images[0], bytes) else b""


def find_features(
    features: Mapping[str, Values], class_names: Mapping[str, Sequence[str]], asked: Asked
) -> Columns:
    """Finds the features of an Example by meaning; `Columns.image` is "" without an image.

    Args:
      features: the Example's features.
      class_names: the class names of each integer feature.
      asked: the features that the user named.

    Example:
      >>> found = find_features({"image": [b""], "x": [1], "fine": [2]}, {"fine": ["a"]}, Asked())
      >>> found.image, found.label, found.class_names
      ('image', 'fine', ('a',))
    """
    image = asked.image or find_column(features, IMAGE_FEATURES)
    split, name = (find_column(features, known) for known in (SPLIT_FEATURES, NAME_FEATURES))
    # A withheld label may have no value; no other feature replaces it.
    rest = {f: features[f] for f in sorted(features) if f not in (image, split, name)}
    some = find_column([f for f, values in rest.items() if values], LABEL_FEATURES)
    wanted = asked.label or some
    declared = [feature for feature in rest if feature in class_names]
    may_label = [f for f in rest if not f.startswith("image/") or find_column([f], LABEL_FEATURES)]
    label = LabelColumn.choose(may_label, wanted, declared, LABEL_FEATURES)
    known = tuple(class_names.get(label.name, ()))
    return Columns(image, label.name, split, name, known, label.others, label.is_unclear)


def tfrecord_columns(shard: ShardRef, storage_options: Mapping[str, Any] | None) -> str:
    """Returns one line about the features that are read of a TFRecord file; "" without images.

    Raises:
      UsageError: for a feature that the user named and that the first records lack.
      OSError, ShardDamaged: when the file cannot be read.
    """
    fs, path = connect(shard.uri, storage_options)
    class_names, asked = tfds.read_class_names(fs, path), Asked.of(shard.etag)
    features: dict[str, Values] = {}
    with SteadyFile(fs, path) as file:
        for data in itertools.islice(read_records(file), _HEAD):
            try:
                found = parse_example(data)
            except ValueError:
                continue  # reading the shard itself will report it
            features.update({name: v for name, v in found.items() if v or name not in features})
    known: Collection[str] = {*features, *class_names}
    if features:
        require_column(asked.image, "--image_column", known)
        require_column(asked.label, "--label_column", known)
    columns = find_features(features, class_names, asked)
    return columns.describe(shard.key) if columns.image else ""


def _text(features: Mapping[str, Values], names: Sequence[str]) -> str:
    for name in names:
        values = features.get(name)
        if values and isinstance(values[0], bytes):
            return values[0].decode("utf-8", errors="replace")
    return ""


def masked_crc(data: bytes) -> int:
    """Returns the checksum of TFRecord.

    Example:
      >>> hex(masked_crc(b"123456789"))
      '0xc78ab0e5'
    """
    import google_crc32c

    crc = google_crc32c.value(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def frame(data: bytes) -> bytes:
    """Returns the bytes of a record in a file."""
    length = struct.pack("<Q", len(data))
    return b"".join(
        (length, _CHECKSUM.pack(masked_crc(length)), data, _CHECKSUM.pack(masked_crc(data)))
    )


def read_records(file: SteadyFile) -> Iterator[bytes]:
    """Yields the records of a TFRecord file; gzip is detected from content.

    Args:
      file: at its start.

    Raises:
      ShardDamaged: at the first record that is cut or whose checksum is wrong; in a compressed
        file, the offset counts unpacked bytes.
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
        raise ShardDamaged(f"a record declares {too_large(length)}", at)
    data, checksum = stream.read(length), stream.read(_CHECKSUM.size)
    if len(data) < length or len(checksum) < _CHECKSUM.size:
        raise ShardDamaged("the last record is cut", at)
    if _CHECKSUM.unpack(checksum)[0] != masked_crc(data):
        raise ShardDamaged("the checksum of a record is wrong", at)
    return (data,)
