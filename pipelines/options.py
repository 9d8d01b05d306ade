"""The options of an extraction: frozen dataclasses that check themselves."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from classifier.base.request import BaseRequest, refuse_for_pixels
from classifier.engines.options import AUTO, EngineOptions
from classifier.inputs import InputOptions
from classifier.inputs.labels import LabelOptions
from classifier.pixels.views import BOOK, canonical
from featurestore.cli.logs import is_json
from featurestore.errors import UsageError, unknown_choice
from featurestore.spec import DTYPES, PixelSpec, check_views

SPLITS = ("train", "validation", "test")
SPLITS_EXAMPLE = "train=.8,validation=.1,test=.1"
DEFAULT_OUTPUT = "hoarfrost-store"


@dataclass(frozen=True)
class SplitFractions:
    """Divides an input without splits, by the content of its images.

    Attributes:
      shares: split name -> fraction of the images; the sum is 1, or the mapping is empty.
    """

    shares: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.shares and not math.isclose(sum(self.shares.values()), 1.0, abs_tol=1e-6):
            raise UsageError(
                f"--split_fractions: the fractions must sum to 1, got {sum(self.shares.values()):g}"
            )

    @classmethod
    def parse(cls, text: str) -> SplitFractions:
        """Reads ``train=.8,validation=.1,test=.1``.

        Raises:
          UsageError: for an unknown split or a share outside 0 to 1.
        """
        shares: dict[str, float] = {}
        for item in filter(None, text.split(",")):
            name, _, value = item.partition("=")
            try:
                share = float(value)
            except ValueError:
                share = math.nan
            if name.strip() not in SPLITS or not 0 <= share <= 1:
                raise UsageError(
                    f"--split_fractions: expected {'|'.join(SPLITS)}=FRACTION, got {item!r}; for "
                    f"example {SPLITS_EXAMPLE}"
                )
            shares[name.strip()] = share
        return cls(shares)

    def choose(self, seed: int, content_hash: str) -> str | None:
        """Returns the split of an image by its content, so that copies have the same split.

        Args:
          seed: of the store.
          content_hash: 64 hex digits.
        """
        if not self.shares:
            return None
        # Adding the seed to uniform bits modulo their range keeps them uniform.
        bits = (int(content_hash[:16], 16) + seed * 0x9E3779B97F4A7C15) % 2**64
        position, chosen = bits / 2**64, None
        for name, share in self.shares.items():
            if share > 0:
                chosen = name
                if position < share:
                    return name
            position -= share
        return chosen


@dataclass(frozen=True)
class Selection:
    """Which of the listed images are extracted.

    Attributes:
      limit: number of images at most; 0 for all.
      limit_per_class: number of images of each split and class at most; 0 for all.
    """

    limit: int = 0
    limit_per_class: int = 0

    def __post_init__(self) -> None:
        for flag in ("limit", "limit_per_class"):
            if getattr(self, flag) < 0:
                raise UsageError(f"--{flag} must be positive, got {getattr(self, flag)}")


@dataclass(frozen=True)
class ChunkOptions:
    """How the work is cut.

    Attributes:
      chunk_size: images per chunk; 0 for one that suits the number of images.
      batch_size: images per call of the base.
    """

    chunk_size: int = 0
    batch_size: int = 16

    def __post_init__(self) -> None:
        if not 0 <= self.chunk_size <= 100_000:
            raise UsageError(
                f"--chunk_size must be 1 to 100000, or 0 to choose, got {self.chunk_size}"
            )
        if not 1 <= self.batch_size <= 4096:
            raise UsageError(f"--batch_size must be 1 to 4096, got {self.batch_size}")


@dataclass(frozen=True)
class ViewOptions:
    """Augmented views of training images.

    Attributes:
      views: rows per training image; with 1 it is not augmented.
      augment: the operations that make further views, in their canonical spelling; "" for one view.
    """

    views: int = 1
    augment: str = ""

    def __post_init__(self) -> None:
        check_views(self.views)
        if self.views == 1 and self.augment:
            raise UsageError(
                f"--augment {self.augment} makes further views, and --views 1 is the image as it "
                "is; give --views 2 or more"
            )
        augment = canonical(self.augment or BOOK) if self.views > 1 else ""
        object.__setattr__(self, "augment", augment)


@dataclass(frozen=True)
class Upkeep:
    """What a run does besides extracting what is new.

    Attributes:
      retry: whether quarantined images are tried again.
      prune: whether rows whose image is gone from the input are dropped.
      dedupe: whether each distinct content is computed once.
    """

    retry: bool = False
    prune: bool = False
    dedupe: bool = False


@dataclass(frozen=True)
class Limits:
    """What a run may lose before it fails.

    Attributes:
      max_bad_fraction: largest fraction of quarantined images in the whole store.
      allow_dead_chunks: whether a run with dead chunks exits with 0.
    """

    max_bad_fraction: float = 0.1
    allow_dead_chunks: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.max_bad_fraction <= 1:
            raise UsageError(f"--max_bad_fraction must be 0 to 1, got {self.max_bad_fraction}")


@dataclass(frozen=True)
class RemoteOptions:
    """How a job on other machines is started.

    Attributes:
      no_wait: whether the command returns once the job is submitted.
      resubmit: whether jobs that were submitted without waiting are given up, and what they left is
        extracted by this run.
      accelerator: what Dataflow attaches to the workers that run the base, in its own words; or "".
      min_ram: the least memory of these workers, such as ``16GB``; or "".
    """

    no_wait: bool = False
    resubmit: bool = False
    accelerator: str = ""
    min_ram: str = ""

    @property
    def hints(self) -> dict[str, str]:
        """Beam's resource hints: name -> value."""
        given = {"accelerator": self.accelerator, "min_ram": self.min_ram}
        return {name: value for name, value in given.items() if value}


@dataclass(frozen=True)
class WatchOptions:
    """Where workers tell of their work, besides the progress line.

    Attributes:
      metrics_folder: on each worker's machine, for Prometheus; or "".
      json_logs: whether they log JSON lines; by default as this process does.
    """

    metrics_folder: str = ""
    json_logs: bool = field(default_factory=is_json)

    def __post_init__(self) -> None:
        if "://" in self.metrics_folder:
            raise UsageError(
                "--metrics_folder is a folder on each worker's machine, where node_exporter reads "
                f"it; got the address {self.metrics_folder!r}"
            )


@dataclass(frozen=True)
class ExtractOptions:
    """The options of ``python -m pipelines.extract``.

    Attributes:
      output: folder or URL of the store.
      inputs: URIs; none for the built-in sample.
      input_store: a store whose rows take the place of images; or "".
      base: the frozen base.
      pixels: the fields of `PixelSpec` that were given, without the size.
      dtype: ``auto``, ``float16`` or ``float32``.
      engine: the user's choice of engine and precision.
      reading: how inputs are read.
      labels: where labels come from besides folders and shards.
      selection: which images are extracted.
      chunks: how the work is cut.
      limits: what the run may lose.
      upkeep: what the run does besides.
      watching: where workers tell of their work.
      splits: shares for inputs without splits.
      views: augmented views of training images.
      remote: how a job on other machines is started.
      seed: of splits, views and random weights.
      plan: whether to show what would run, and run nothing.
      beam_arguments: Beam's own flags.
    """

    output: str = DEFAULT_OUTPUT
    inputs: tuple[str, ...] = ()
    input_store: str = ""
    base: BaseRequest = field(default_factory=BaseRequest)
    pixels: Mapping[str, str] = field(default_factory=dict)
    dtype: str = "auto"
    engine: EngineOptions = field(default_factory=EngineOptions)
    reading: InputOptions = field(default_factory=InputOptions)
    labels: LabelOptions = field(default_factory=LabelOptions)
    selection: Selection = field(default_factory=Selection)
    chunks: ChunkOptions = field(default_factory=ChunkOptions)
    limits: Limits = field(default_factory=Limits)
    upkeep: Upkeep = field(default_factory=Upkeep)
    watching: WatchOptions = field(default_factory=WatchOptions)
    splits: SplitFractions = field(default_factory=SplitFractions)
    views: ViewOptions = field(default_factory=ViewOptions)
    remote: RemoteOptions = field(default_factory=RemoteOptions)
    seed: int = 0
    plan: bool = False
    beam_arguments: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        PixelSpec((1, 1), **self.pixels)
        if self.dtype not in ("auto", *DTYPES):
            raise unknown_choice("--dtype", self.dtype, ("auto", *DTYPES))
        if self.base.is_pixels:
            refuse_for_pixels(
                engine=self.engine.engine != AUTO and self.engine.engine,
                precision=self.engine.precision != AUTO and self.engine.precision,
                dtype=self.dtype != "auto" and self.dtype,
            )
        if not self.output or "" in self.inputs:
            raise UsageError("--input and --output need a folder or URL, got ''")
        if not 0 <= self.seed < 2**32:
            raise UsageError(f"--seed must be 0 to {2**32 - 1}, got {self.seed}")
        if self.upkeep.prune and (self.selection.limit or self.selection.limit_per_class):
            raise UsageError(
                "--prune needs the whole input to know what is gone; leave out --limit and "
                "--limit_per_class"
            )

    @property
    def pixel_fields(self) -> dict[str, str]:
        """The fields of `PixelSpec` without the size: your flags, or what the base's file says."""
        given = dict(self.pixels)
        return given if {"fit", "resize"} <= set(given) else {**self.base.pixels, **given}

    @property
    def storage_options(self) -> Mapping[str, Any]:
        """For inputs and output."""
        return self.reading.storage_options
