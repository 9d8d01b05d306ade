"""Extracts the features of images into a feature store, once.

    python -m pipelines.extract --runner=DirectRunner
    python -m pipelines.extract --input photos --output features --model MobileNetV2 --pooling avg

Without --input it runs on a built-in sample of handwritten digits. Interrupted, it goes on where it
stopped when the same command is given again. Flags that are not listed here go to Apache Beam, such
as --runner, --direct_num_workers or --region.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from classifier.base.request import BaseRequest, parse_image_size
from classifier.engines.engine import ENGINES, PRECISIONS
from classifier.engines.options import EngineOptions
from classifier.inputs import Asked, InputOptions
from classifier.inputs.labels import LabelOptions
from classifier.pixels.views import BOOK, LAYERS
from featurestore.cli.command import Parser, key_values, main, quiet_libraries, say
from featurestore.ignored import note_lines
from featurestore.spec import ALPHAS, DTYPES, EXIFS, FITS, POOLINGS, PREPROCESS_MODES, RESIZES
from pipelines.driver import Say, extract
from pipelines.finishing.timereport import time_lines
from pipelines.finishing.verdict import Outcome
from pipelines.options import (
    ChunkOptions,
    ExtractOptions,
    Limits,
    Selection,
    SplitFractions,
    Upkeep,
    ViewOptions,
)

KEPT = "the chunks that were committed stay in the store; the same command goes on from there"
DEFAULT_OUTPUT = "hoarfrost-store"
PIXEL_FLAGS = ("fit", "resize", "alpha", "exif")


def build_parser() -> Parser:
    """Returns the command's parser; Beam's flags are left over by it."""
    parser = Parser(prog="python -m pipelines.extract", description=__doc__)
    _add_data_flags(parser)
    _add_base_flags(parser)
    _add_view_flags(parser)
    run = parser.add_argument_group("the run")
    run.add_argument("--batch_size", type=int, default=16, metavar="N", help="default 16")
    run.add_argument("--chunk_size", type=int, default=0, metavar="N", help="images per commit")
    run.add_argument(
        "--max_bad_fraction",
        type=float,
        default=0.1,
        metavar="F",
        help="exit with 1 when more of the images than this are quarantined; default 0.1",
    )
    run.add_argument(
        "--allow_dead_chunks", action="store_true", help="exit with 0 though chunks failed"
    )
    run.add_argument("--retry", action="store_true", help="try the quarantined images again")
    run.add_argument(
        "--prune", action="store_true", help="drop rows whose image is no longer in the input"
    )
    run.add_argument(
        "--dedupe", action="store_true", help="compute equal files once; each stays a row"
    )
    run.add_argument(
        "--seed", type=int, default=0, metavar="N", help="of splits, views, random weights"
    )
    run.add_argument(
        "--plan", action="store_true", help="say what would run and what it would cost; run nothing"
    )
    run.add_argument("--json", action="store_true", help="print the summary as JSON and no more")
    return parser


def _add_data_flags(parser: Parser) -> None:
    data = parser.add_argument_group("input and output")
    data.add_argument(
        "--input",
        nargs="+",
        action="extend",
        default=[],
        metavar="URI",
        help="folders (root/class/*, root/split/class/*, flat), patterns, images, "
        "shards (*.tar, *.zip, *.tfrecord, *.parquet) or lists (*.csv)",
    )
    data.add_argument(
        "--output", default=DEFAULT_OUTPUT, metavar="STORE", help=f"default ./{DEFAULT_OUTPUT}"
    )
    data.add_argument(
        "--storage_options",
        nargs="+",
        action="extend",
        default=[],
        metavar="K=V",
        help="for remote file systems, such as anon=true",
    )
    data.add_argument(
        "--layout", default="auto", metavar="auto|class|split|flat", help="what folder names mean"
    )
    data.add_argument(
        "--labels", default="", metavar="FILE", help="CSV or Parquet of key and label"
    )
    of_shards = "of a list, Parquet or TFRecord"
    for flag, text in (
        ("--key_column", "of --labels; default the first"),
        ("--label_column", f"of --labels where that is given, else {of_shards}; default label"),
        ("--image_column", of_shards),
    ):
        data.add_argument(flag, default="", metavar="NAME", help=text)
    data.add_argument(
        "--label_from_name", default="", metavar="REGEX", help="group 1 of a match in the key"
    )
    data.add_argument(
        "--split_fractions",
        default="",
        metavar="train=.8,validation=.1,test=.1",
        help="splits by content, for an input that gives none",
    )
    data.add_argument("--limit", type=int, default=0, metavar="N", help="images at most")
    data.add_argument(
        "--limit_per_class", type=int, default=0, metavar="N", help="of each split and class"
    )


def _add_base_flags(parser: Parser) -> None:
    base = parser.add_argument_group("the frozen base and its pixels")
    base.add_argument(
        "--model",
        default="VGG16",
        metavar="NAME|PATH",
        help="a keras.applications name (python -m classifier.bases lists them) or a saved model",
    )
    base.add_argument("--weights", default="imagenet", metavar="imagenet|none|PATH")
    base.add_argument("--layer", default="", metavar="NAME", help="cut here; outer/inner if nested")
    base.add_argument("--pooling", default="none", metavar="|".join(POOLINGS))
    base.add_argument(
        "--image_size", metavar="180|180x240", help="height x width; default: 180 for VGG16"
    )
    base.add_argument("--fit", default="squash", metavar="|".join(FITS))
    base.add_argument("--resize", default="bilinear", metavar="|".join(RESIZES))
    base.add_argument("--preprocess", default="auto", metavar="|".join(("auto", *PREPROCESS_MODES)))
    base.add_argument("--alpha", default="drop", metavar="|".join(ALPHAS))
    base.add_argument("--exif", default="ignore", metavar="|".join(EXIFS))
    base.add_argument(
        "--dtype",
        default="auto",
        choices=("auto", *DTYPES),
        help="stored values; auto: float16 for maps, float32 for embeddings",
    )
    base.add_argument("--engine", default="auto", metavar="|".join(("auto", *ENGINES)))
    base.add_argument(
        "--precision",
        default="auto",
        metavar="|".join(("auto", *PRECISIONS)),
        help="auto: the fastest whose features agree with float32's on a sample of the input",
    )
    base.add_argument(
        "--allow_inexact",
        action="store_true",
        help="keep int8 features though they are far from float32's",
    )
    base.add_argument(
        "--trust_model", action="store_true", help="allow Python code inside a model file"
    )


def _add_view_flags(parser: Parser) -> None:
    views = parser.add_argument_group("augmented views of the training images")
    views.add_argument(
        "--views",
        type=int,
        default=1,
        metavar="K",
        help="rows per training image; 1, the image as it is, is the default",
    )
    views.add_argument(
        "--augment",
        default="",
        metavar="NAME[=FACTOR],...",
        help=f"{', '.join(LAYERS)} as in keras.layers, in this order; default {BOOK}",
    )


def parse_options(argv: Sequence[str]) -> tuple[ExtractOptions, bool]:
    """Turns arguments into checked options.

    Returns:
      (options, whether JSON was asked for).

    Raises:
      UsageError: for an unknown flag, near ones suggested, or a bad value.
    """
    parser = build_parser()
    args, rest = parser.parse_known_args(argv)
    beam_arguments: tuple[str, ...] = ()
    if rest:
        # Imported only where needed: Beam takes a second.
        from pipelines.beam.options import check_beam_arguments

        beam_arguments = check_beam_arguments(parser, rest)
    of_table = args.labels or args.label_from_name
    options = ExtractOptions(
        output=args.output,
        inputs=tuple(args.input),
        base=BaseRequest(
            model=args.model,
            weights=args.weights,
            layer=args.layer,
            pooling=args.pooling,
            image_size=parse_image_size(args.image_size) if args.image_size else None,
            preprocess=args.preprocess,
            seed=args.seed,
            trust_model=args.trust_model,
        ),
        pixels={name: getattr(args, name) for name in PIXEL_FLAGS},
        dtype=args.dtype,
        engine=EngineOptions(args.engine, args.precision, args.allow_inexact),
        reading=InputOptions(
            args.layout,
            key_values(args.storage_options, "--storage_options"),
            Asked(args.image_column, "" if of_table else args.label_column),
        ),
        labels=LabelOptions(
            args.labels,
            args.key_column,
            args.label_column if of_table else "",
            args.label_from_name,
        ),
        selection=Selection(args.limit, args.limit_per_class),
        chunks=ChunkOptions(args.chunk_size, args.batch_size),
        upkeep=Upkeep(args.retry, args.prune, args.dedupe),
        limits=Limits(args.max_bad_fraction, args.allow_dead_chunks),
        splits=SplitFractions.parse(args.split_fractions),
        views=ViewOptions(args.views, args.augment),
        seed=args.seed,
        plan_only=args.plan,
        beam_arguments=beam_arguments,
    )
    return options, args.json


def summary_lines(outcome: Outcome) -> list[str]:
    """Lays out a run's record for a person."""
    record, ledger = outcome.record, outcome.record["ledger"]
    spec = outcome.store.spec
    shape = ", ".join(map(str, spec.feature_shape))
    augmented = f" and {record['augmented']:,} augmented" if record["augmented"] else ""
    lines = [
        f"{ledger['rows']:,} rows{augmented} of ({shape}) {spec.dtype} in "
        f"{record['seconds']:.1f} s, "
        f"{record['images_per_second']:,.1f} images/s with start-up",
        f"ledger: {ledger['images_in']:,} images in = {ledger['rows']:,} rows + "
        f"{ledger['quarantined']:,} quarantined + {ledger['dead_images']:,} in dead chunks; "
        f"{ledger['duplicates']:,} duplicates, {ledger['ignored']:,} other files ignored",
    ]
    kinds = record["quarantined_by_kind"]
    if kinds:
        lines.append("quarantined: " + ", ".join(f"{kind} {n:,}" for kind, n in kinds.items()))
    if record["ignored"]:
        shown = ", ".join(record["ignored"][:3])
        more = ", ..." if len(record["ignored"]) > 3 else ""
        lines.append(f"ignored: {shown}{more} (all in summary.json)")
    if unmarked := record["unmarked"]:
        lines.append(
            f"kept: {unmarked:,} files of parts/ and quarantine/, though markers/ is empty and "
            "nothing says what they are; restore markers/ and manifest/ from a backup"
        )
    if "labels" not in record:
        lines.extend(record.get("found", ()))
    lines.extend(f"note: {line}" for line in note_lines(record["notes"]))
    if ledger["images_in"]:
        lines.extend(time_lines(record["time"]))
    total = record["store_ledger"]["rows"]
    lines.append(f"store: {outcome.store.url} ({total:,} rows)")
    return lines


def _plan(options: ExtractOptions, as_json: bool, tell: Say) -> int:
    # TensorFlow comes with it.
    from pipelines.estimating.estimate import estimate, plan_lines

    record = estimate(options, tell)
    for line in [json.dumps(record, indent=2)] if as_json else plan_lines(record):
        say(line)
    return 0


def run(argv: Sequence[str]) -> int:
    """Runs the command; returns its exit code."""
    quiet_libraries()
    options, as_json = parse_options(argv)
    tell = (lambda line: None) if as_json else say
    if options.plan_only:
        return _plan(options, as_json, tell)
    outcome = extract(options, tell, not as_json)
    if as_json:
        say(json.dumps({**outcome.record, "problems": outcome.problems}, indent=2))
    else:
        for line in summary_lines(outcome):
            say(line)
    for problem in outcome.problems:
        say(f"error: {problem}", to_stderr=True)
    return outcome.exit_code


if __name__ == "__main__":
    main(run, kept=KEPT)
