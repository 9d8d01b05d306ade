"""TFRecord shards: written by TensorFlow itself, read without it."""

import gzip
import json

import fsspec
import numpy as np
import pytest
from support.images import encode, png_bytes
from support.optional import optional
from support.shards import facts
from support.shards import read_shards as read

from classifier.inputs import InputOptions, list_inputs
from classifier.inputs.formats.examples import encode_example, parse_example
from classifier.inputs.formats.tfrecord import frame, masked_crc
from featurestore.errors import UsageError

PNG = png_bytes(np.zeros((2, 2, 3), np.uint8))


def example(**features):
    import tensorflow as tf

    def feature(value):
        values = value if isinstance(value, list) else [value]
        if isinstance(values[0], bytes):
            return tf.train.Feature(bytes_list=tf.train.BytesList(value=values))
        if isinstance(values[0], float):
            return tf.train.Feature(float_list=tf.train.FloatList(value=values))
        return tf.train.Feature(int64_list=tf.train.Int64List(value=values))

    named = {name.replace("__", "/"): feature(value) for name, value in features.items()}
    return tf.train.Example(features=tf.train.Features(feature=named)).SerializeToString()


def write(path, records, compression=None):
    import tensorflow as tf

    with tf.io.TFRecordWriter(str(path), tf.io.TFRecordOptions(compression)) as writer:
        for record in records:
            writer.write(record)


def shards(*uris):
    return list(list_inputs([str(uri) for uri in uris], InputOptions()))


def test_the_imagenet_layout(tmp_path):
    write(
        tmp_path / "a.tfrecord",
        [
            example(image__encoded=PNG, image__class__label=3, image__class__text=b"tabby cat"),
            example(image__encoded=PNG, image__class__label=7, image__filename=b"n0/x.JPEG"),
            example(image__encoded=PNG, image__filename=b"n0/x.JPEG"),
            example(image__encoded=PNG, image__class__text=[b"a", "b\u00e9".encode()]),
            example(image__height=3, weight=1.5),
        ],
    )
    found, ignored, damage = read(tmp_path / "a.tfrecord")
    assert damage is None and all(data == PNG for _, data in found)
    assert facts(found) == [
        ("a.tfrecord/0", ("tabby cat",), None),
        ("a.tfrecord/n0/x.JPEG", ("7",), None),
        ("a.tfrecord/2", (), None),
        ("a.tfrecord/3", ("a", "b\u00e9"), None),
    ]
    assert ignored.names == ["a.tfrecord/4"]


@pytest.mark.parametrize("compression", ["", "GZIP"])
def test_compression_is_found_by_content_and_on_memory(tmp_path, compression):
    write(tmp_path / "a", [example(image=PNG, label=b"x")], compression)
    name = "memory://records/a-test.tfrecord.gz" if compression else "memory://records/b.tfrecords"
    fsspec.filesystem("memory").pipe_file(name, (tmp_path / "a").read_bytes())
    found, _, damage = read(name)
    assert damage is None and found[0][1] == PNG
    assert facts(found)[0][1:] == (("x",), "test" if compression else None)


def test_the_layout_of_tensorflow_datasets(tmp_path):
    (tmp_path / "label.labels.txt").write_text("cat\ndog\n")
    (tmp_path / "other.labels.txt").write_text("red\ngreen\n")
    records = [example(image=PNG, label=i) for i in (1, 0, -1, 5)]
    write(tmp_path / "pets-train.tfrecord-00000-of-00001", records)
    write(tmp_path / "pets-test.tfrecord-00000-of-00001", [example(image=PNG, other=1)])
    assert facts(read(tmp_path)[0]) == [
        ("pets-test.tfrecord-00000-of-00001/0", ("green",), "test"),
        ("pets-train.tfrecord-00000-of-00001/0", ("dog",), "train"),
        ("pets-train.tfrecord-00000-of-00001/1", ("cat",), "train"),
        ("pets-train.tfrecord-00000-of-00001/2", (), "train"),
        ("pets-train.tfrecord-00000-of-00001/3", ("5",), "train"),
    ]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """A data set that tensorflow_datasets itself wrote: 50 images, of which it knows the class."""
    tfds = optional("tensorflow_datasets")
    names = ["tabby", "beagle", "koi"]

    class Pets(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            features = {
                "image": tfds.features.Image(shape=(None, None, 3), encoding_format="png"),
                "label": tfds.features.ClassLabel(names=names),
            }
            return tfds.core.DatasetInfo(
                builder=self, features=tfds.features.FeaturesDict(features)
            )

        def _split_generators(self, manager):
            return {
                "train": self._generate_examples(0, 40),
                "test": self._generate_examples(40, 50),
            }

        def _generate_examples(self, low, high):
            for i in range(low, high):
                # The first pixel tells the class, whatever the order of the records.
                pixels = np.full((3, 4, 3), i * 4 + i % 3, np.uint8)
                pixels[0, 0] = i % 3
                yield i, {"image": pixels, "label": names[i % 3]}

    folder = tmp_path_factory.mktemp("tfds")
    builder = Pets(data_dir=str(folder))
    config = tfds.download.DownloadConfig(num_shards=4)
    builder.download_and_prepare(download_config=config)
    return builder, names


def test_a_data_set_of_tensorflow_datasets_itself(dataset):
    from classifier.pixels.decoder import decode
    from featurestore.spec import PixelSpec

    builder, names = dataset
    found, _, damage = read(builder.data_dir)
    assert damage is None and len(found) == 50
    for ref, data in found:
        pixels = decode(data, PixelSpec((3, 4), fit="squash", resize="nearest")).pixels
        assert ref.labels == (names[pixels[0, 0, 0]],)
    assert [ref.split for ref, _ in found].count("train") == 40
    assert len({ref.key for ref, _ in found}) == 50


@pytest.mark.parametrize(
    "text", ["train", "train[:40%]", "train[40%:]", "train[-7:]", "train[3:5]", "test[:33%]"]
)
def test_slices_are_those_of_tensorflow_datasets(dataset, text):
    builder, _ = dataset
    expected = [
        bytes(item)
        for item in builder.as_dataset(
            split=text, decoders={"image": __import__("tensorflow_datasets").decode.SkipDecoding()}
        )
        .map(lambda item: item["image"])
        .as_numpy_iterator()
    ]
    found, _, _ = read(f"{builder.data_dir}#{text}")
    assert [data for _, data in found] == expected and expected


def test_mistaken_slices(dataset, tmp_path):
    builder, _ = dataset
    with pytest.raises(UsageError, match="unknown value 'trian'; did you mean train"):
        shards(f"{builder.data_dir}#trian[:3]")
    with pytest.raises(UsageError, match="has no dataset_info.json"):
        shards(f"{tmp_path}#train")
    with pytest.raises(UsageError, match="does not exist"):
        shards(f"{tmp_path}/gone#train")
    (tmp_path / "dataset_info.json").write_text(
        json.dumps({"splits": [{"name": "train", "shardLengths": ["5", "5"]}]})
    )
    with pytest.raises(UsageError, match="shard 0 of 2 of split 'train' is missing"):
        shards(f"{tmp_path}#train")


def test_a_slice_is_another_version_of_its_shard(dataset):
    builder, _ = dataset
    whole = {ref.key: ref for ref in shards(builder.data_dir)}
    part = shards(f"{builder.data_dir}#train[:25]")
    changed = [ref for ref in part if ref.etag != whole[ref.key].etag]
    assert len(changed) == 1 and [ref.uri for ref in part] == [whole[ref.key].uri for ref in part]


def records_file(count=9):
    noise = np.random.default_rng(0).bytes
    records = [frame(encode_example({"image": [PNG + noise(400)]})) for _ in range(count)]
    starts = np.cumsum([0, *map(len, records)])
    return b"".join(records), starts


@pytest.mark.parametrize("cut", [3, 11, 12, 15, 0.3, 0.5, 0.99, -1, -4, -5])
def test_a_cut_file_gives_what_is_before_the_cut(tmp_path, cut):
    data, starts = records_file()
    cut = int(cut * len(data)) if isinstance(cut, float) else cut % len(data)
    (tmp_path / "a.tfrecord").write_bytes(data[:cut])
    found, _, damage = read(tmp_path / "a.tfrecord")
    whole = int(np.searchsorted(starts, cut, "right")) - 1
    assert [ref.key for ref, _ in found] == [f"a.tfrecord/{i}" for i in range(whole)]
    assert damage.offset == starts[whole]


def test_a_cut_between_records_cannot_be_told_from_the_end(tmp_path):
    data, starts = records_file()
    (tmp_path / "a.tfrecord").write_bytes(data[: starts[4]])
    assert len(read(tmp_path / "a.tfrecord")[0]) == 4
    (tmp_path / "a.tfrecord").write_bytes(b"")
    assert read(tmp_path / "a.tfrecord")[2] is None


@pytest.mark.parametrize("place", [0, 7, 8, 12, 200, -1])
def test_a_flipped_byte_is_told_by_either_checksum(tmp_path, place):
    data, starts = records_file()
    at = starts[4] + place if place >= 0 else starts[5] + place
    data = bytearray(data)
    data[at] ^= 0x40
    (tmp_path / "a.tfrecord").write_bytes(data)
    found, _, damage = read(tmp_path / "a.tfrecord")
    assert len(found) == 4 and damage.offset == starts[4] and "checksum" in str(damage)


@pytest.mark.parametrize("cut", [12, 0.5, -3])
def test_a_cut_compressed_file(tmp_path, cut):
    data = gzip.compress(records_file()[0])
    cut = int(cut * len(data)) if isinstance(cut, float) else cut
    (tmp_path / "a.tfrecord.gz").write_bytes(data[:cut])
    found, _, damage = read(tmp_path / "a.tfrecord.gz")
    assert damage is not None and "compressed records are damaged or cut" in str(damage)
    assert [ref.key for ref, _ in found] == [f"a.tfrecord.gz/{i}" for i in range(len(found))]


def test_records_that_are_no_examples_are_unreadable_one_by_one(tmp_path):
    records = [b"\xff\xff\xff", encode_example({"image": [PNG]}), encode_example({"image": []})]
    (tmp_path / "a.tfrecord").write_bytes(b"".join(map(frame, records)))
    (_, error), (_, good), (_, empty) = read(tmp_path / "a.tfrecord")[0]
    assert "not a tf.train.Example" in str(error) and good == PNG and empty == b""


def test_framing_and_examples_are_tensorflows(tmp_path):
    import tensorflow as tf

    data = encode_example({"a": [b"x", b""], "b": [1, -5, 2**60], "c": []})
    theirs = tf.train.Example.FromString(data)
    assert list(theirs.features.feature["b"].int64_list.value) == [1, -5, 2**60]
    assert list(theirs.features.feature["a"].bytes_list.value) == [b"x", b""]
    assert parse_example(example(f=[0.5, 2.0], i=[-1], b=[b"\0"])) == {
        "f": [0.5, 2.0],
        "i": [-1],
        "b": [b"\0"],
    }
    records = [data, b"", encode(np.zeros((50, 50, 3), np.uint8), "JPEG")]
    write(tmp_path / "theirs", records)
    assert (tmp_path / "theirs").read_bytes() == b"".join(map(frame, records))
    read_back = tf.data.TFRecordDataset(str(tmp_path / "theirs")).as_numpy_iterator()
    assert list(read_back) == records
    assert masked_crc(b"") != 0
