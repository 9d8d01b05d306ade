"""The flags of an extraction, in a table that makes both the parser and the options.

A flag takes its type and its default from the field that it fills.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, fields
from functools import partial
from typing import Any, NamedTuple

from classifier.base.request import BaseRequest, parse_image_size
from classifier.engines.engine import ENGINES, PRECISIONS
from classifier.engines.options import EngineOptions
from classifier.graphs.described import CHOICES
from classifier.inputs import Asked, InputOptions
from classifier.inputs.labels import LabelOptions
from classifier.inputs.layouts import LAYOUTS
from classifier.pixels.views import BOOK, LAYERS
from featurestore.cli.command import key_values
from featurestore.fields import ALPHAS, EXIFS, FITS, RESIZES, PixelSpec
from featurestore.spec import DTYPES, POOLINGS
from pipelines.options import (
    SPLITS_EXAMPLE,
    ChunkOptions,
    ExtractOptions,
    Limits,
    RemoteOptions,
    Selection,
    SplitFractions,
    Upkeep,
    ViewOptions,
    WatchOptions,
)

# The flags of Beam that people need most, under ``--help``, which must not import Beam.
BEAM_HELP = """\
flags of Apache Beam, the ones you are most likely to need:
  --runner=DirectRunner         this machine (default)
    --direct_num_workers=N --direct_running_mode=multi_processing
  --runner=DaskRunner           a Dask cluster; without an address, one on this machine
    --dask_client_address=tcp://HOST:8786  --dask_scheduler_file=FILE
    --dask_npartitions=N  --dask_partition_size=N  --dask_client_name=NAME
    --dask_connection_timeout=SECONDS  --dask_connection_limit=N
  --runner=PortableRunner       Flink, Spark or Prism, by the job server at an address
    --job_endpoint=HOST:PORT --environment_type=EXTERNAL|PROCESS|LOOPBACK
    --environment_config=HOST:PORT | '{"command": "/path/of/boot"}'
    The job server's own flags are written --flag=value.
  --runner=DataflowRunner       Google Cloud
    --project=ID --region=REGION --temp_location=gs://BUCKET/tmp"""


class Flag(NamedTuple):
    """A flag.

    Attributes:
      options: the dataclass that it fills.
      values: what ``--help`` shows as its value: a name, or the choices; none for a switch.
      help: for the user; the default is added.
      field: the field that it fills, where that has another name.
      read: makes the field's value from what was given.
    """

    options: type
    values: str | tuple[str, ...] = ""
    help: str = ""
    field: str = ""
    read: Callable[[Any], Any] | None = None


_COLUMN = "in a list, Parquet or TFRecord"
_INPUTS = """folders (root/class/*, root/split/class/*, flat), patterns, images,
shards (*.tar, *.zip, *.tfrecord, *.parquet) or lists (*.csv)"""
_INPUT_STORE = "take a store's pixels, or its maps of an earlier layer, instead of images"
_SIZE = "height x width; default 180 for VGG16"
_LABEL = f"column of --labels if you give that, else {_COLUMN}; default label"
_SPLITS = "divide an input without splits, by the content of its images"
_MODEL = """a keras.applications name (python -m classifier.bases lists them), a saved model, an
ONNX or OpenVINO graph (.onnx, .xml), kerashub:PRESET of KerasHub (a name or a folder), or pixels to
store the images themselves as uint8"""
_LAYER = """cut here (outer/inner if nested, a tensor of a graph); several layers are taken in one
pass, each with the pooling behind its colon, else that of --pooling"""
_FIT = """crop:256 resizes the shorter side to 256, then cuts; default squash, or what the file of
--preprocess says"""
_RESIZE = """pillow-* are antialiased, as in PyTorch; default bilinear, or what the file of
--preprocess says"""
_PREPROCESS = """FILE.json: of Hugging Face or timm; with an ONNX graph, auto takes one beside it"""
_ENGINE = """onnxruntime is for ONNX graphs; auto: TensorFlow on a GPU (ONNX graphs: ONNX Runtime),
else OpenVINO if it is installed"""
_PRECISION = "auto: the fastest whose features agree with float32's on a sample of the input"
_AUGMENT = f"{', '.join(LAYERS)} as in keras.layers, in this order; default {BOOK}"
_ACCELERATOR = "of Dataflow's workers: type:nvidia-tesla-t4;count:1;install-nvidia-driver"
_METRICS = "each worker counts its work in a file there, for Prometheus's node_exporter"
_storage_options = partial(key_values, flag="--storage_options")
GROUPS = {
    "input and output": {
        "input": Flag(ExtractOptions, "URI", _INPUTS, "inputs", tuple),
        "input_store": Flag(ExtractOptions, "STORE", _INPUT_STORE),
        "output": Flag(ExtractOptions, "STORE", "folder or URL of the store"),
        "storage_options": Flag(
            InputOptions, "K=V", "for remote file systems, such as anon=true", "", _storage_options
        ),
        "layout": Flag(InputOptions, LAYOUTS, "what folder names mean"),
        "labels": Flag(LabelOptions, "FILE", "CSV or Parquet table of key and label", "table"),
        "key_column": Flag(LabelOptions, "NAME", "column of --labels; default the first"),
        "label_column": Flag(Asked, "NAME", _LABEL, "label"),
        "image_column": Flag(Asked, "NAME", f"column {_COLUMN}", "image"),
        "label_from_name": Flag(LabelOptions, "REGEX", "group 1 of a match in the key", "pattern"),
        "split_fractions": Flag(
            ExtractOptions, SPLITS_EXAMPLE, _SPLITS, "splits", SplitFractions.parse
        ),
        "limit": Flag(Selection, "N", "take at most N images"),
        "limit_per_class": Flag(Selection, "N", "take at most N images of each split and class"),
    },
    "the frozen base and its pixels": {
        "model": Flag(BaseRequest, "NAME|PATH", _MODEL),
        "channels": Flag(BaseRequest, "3|1", "of --model pixels: RGB, or grey"),
        "weights": Flag(BaseRequest, "imagenet|none|PATH"),
        "layer": Flag(BaseRequest, "NAME[:POOLING]", _LAYER, "taps", tuple),
        "pooling": Flag(BaseRequest, POOLINGS),
        "image_size": Flag(
            BaseRequest,
            "180|180x240",
            "height x width; default 180 for VGG16",
            "",
            parse_image_size,
        ),
        "fit": Flag(PixelSpec, (*FITS, "crop:N"), _FIT, "", str),
        "resize": Flag(PixelSpec, RESIZES, _RESIZE, "", str),
        "preprocess": Flag(BaseRequest, CHOICES, _PREPROCESS),
        "alpha": Flag(PixelSpec, ALPHAS),
        "exif": Flag(PixelSpec, EXIFS),
        "dtype": Flag(
            ExtractOptions, ("auto", *DTYPES), "auto: float16 for maps, float32 for embeddings"
        ),
        "engine": Flag(EngineOptions, ("auto", *ENGINES), _ENGINE),
        "precision": Flag(EngineOptions, ("auto", *PRECISIONS), _PRECISION),
        "allow_inexact": Flag(EngineOptions, help="keep int8 features that are far from float32's"),
        "remeasure": Flag(EngineOptions, help="try the precisions again, although a trial is kept"),
        "trust_model": Flag(BaseRequest, help="allow Python code inside a model file"),
    },
    "augmented views of the training images": {
        "views": Flag(ViewOptions, "K", "rows per training image; the first is the image as it is"),
        "augment": Flag(ViewOptions, "NAME[=FACTOR],...", _AUGMENT),
    },
    "the run": {
        "batch_size": Flag(ChunkOptions, "N", "images per call of the base"),
        "chunk_size": Flag(ChunkOptions, "N", "images per commit"),
        "max_bad_fraction": Flag(Limits, "F", "exit with 1 if a larger fraction of images is bad"),
        "allow_dead_chunks": Flag(Limits, help="exit with 0 although chunks failed"),
        "retry": Flag(Upkeep, help="try the quarantined images again"),
        "prune": Flag(Upkeep, help="drop rows whose image is no longer in the input"),
        "dedupe": Flag(Upkeep, help="compute equal files once; each stays a row"),
        "metrics_folder": Flag(WatchOptions, "FOLDER", _METRICS),
        "seed": Flag(ExtractOptions, "N", "for splits, views and random weights"),
        "plan": Flag(ExtractOptions, help="show what would run, and its cost; run nothing"),
    },
    "a job on other machines": {
        "no_wait": Flag(RemoteOptions, help="return when the job is submitted"),
        "resubmit": Flag(RemoteOptions, help="give up jobs of --no_wait; extract what they left"),
        "accelerator": Flag(RemoteOptions, "TYPE", _ACCELERATOR),
        "min_ram": Flag(RemoteOptions, "SIZE", "of Dataflow's workers, such as 16GB"),
    },
}
FLAGS = {name: flag for flags in GROUPS.values() for name, flag in flags.items()}


def add_flags(add: Callable[..., Any], names: Iterable[str]) -> None:
    """Adds flags of the table.

    Args:
      add: ``add_argument`` of a parser or of a group.
      names: of the flags, without dashes.
    """
    for name in names:
        flag, default = FLAGS[name], default_of(name)
        shown = flag.values if isinstance(flag.values, str) else "|".join(flag.values)
        about: dict[str, Any] = {"metavar": shown, "type": type(default), "default": default}
        text = flag.help
        if isinstance(default, bool):
            about = {"action": "store_true"}
        elif isinstance(default, list):
            about = {"metavar": shown, "nargs": "+", "action": "extend", "default": []}
        elif default:
            text = f"{text}; default {default}" if text else f"default {default}"
        add(f"--{name}", help=text, **about)


def default_of(name: str) -> Any:
    """Returns the default of a flag: its field's; "" where `Flag.read` makes it."""
    flag = FLAGS[name]
    field = {one.name: one for one in fields(flag.options)}[flag.field or name]
    value = field.default if field.default_factory is MISSING else field.default_factory()
    if isinstance(value, (str, int, float)) and not flag.read:
        return value
    return [] if isinstance(value, (tuple, Mapping)) else ""


def values_for(options: type, args: Namespace) -> dict[str, Any]:
    """Returns what the flags give to a dataclass: its fields and their values."""
    values = {}
    for name, flag in FLAGS.items():
        given = getattr(args, name, None)
        if flag.options is options and given is not None and (given or not flag.read):
            values[flag.field or name] = flag.read(given) if flag.read else given
    return values


def reading_options(args: Namespace, asked: Asked) -> InputOptions:
    """Builds the options of reading inputs from parsed arguments."""
    return InputOptions(**values_for(InputOptions, args), asked=asked)


def extract_options(args: Namespace, beam_arguments: tuple[str, ...] = ()) -> ExtractOptions:
    """Builds checked options from parsed arguments.

    Raises:
      UsageError: for a bad value.
    """
    columns, labels = values_for(Asked, args), values_for(LabelOptions, args)
    if args.labels or args.label_from_name:
        labels["label_column"] = columns.pop("label")
    return ExtractOptions(
        **values_for(ExtractOptions, args),
        base=BaseRequest(**values_for(BaseRequest, args), seed=args.seed),
        pixels=values_for(PixelSpec, args),
        engine=EngineOptions(**values_for(EngineOptions, args)),
        reading=reading_options(args, Asked(**columns)),
        labels=LabelOptions(**labels),
        selection=Selection(**values_for(Selection, args)),
        chunks=ChunkOptions(**values_for(ChunkOptions, args)),
        limits=Limits(**values_for(Limits, args)),
        upkeep=Upkeep(**values_for(Upkeep, args)),
        watching=WatchOptions(**values_for(WatchOptions, args)),
        views=ViewOptions(**values_for(ViewOptions, args)),
        remote=RemoteOptions(**values_for(RemoteOptions, args)),
        beam_arguments=beam_arguments,
    )
