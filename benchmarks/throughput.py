"""Images per second: the textbook loop, Ray Data, the base alone, decoding alone and Hoarfrost.

    python -m benchmarks.throughput [--bases VGG16,MobileNetV2] [--images N] [--rounds 3]

Every contender processes the same JPEG files of 500 by 375 pixels with the same base, in a process
of its own, one after another. Every other round runs backwards. Rates are medians over the rounds,
and ratios are medians of the ratios within a round. "With start-up" is the whole command.
"""

from __future__ import annotations

import tempfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks import contenders as ways
from benchmarks.arguments import counted_parser, positive
from benchmarks.bases import BASES, Base, chosen, write_base_apart
from benchmarks.contenders import Bench
from benchmarks.images import write_photographs
from benchmarks.rounds import Results, interleave, paired_ratio, serial_limit
from benchmarks.tables import number, publish, table
from featurestore.cli.command import main, say
from featurestore.errors import unknown_choice


@dataclass(frozen=True)
class Settings:
    """The flags of a measurement.

    Attributes:
      images: number of files; 0 for the base's own default.
      rounds: in which every contender runs once.
      only: names of the contenders to run; empty for all.
      timeout: seconds that one run may take.
    """

    images: int = 0
    rounds: int = 3
    only: tuple[str, ...] = ()
    timeout: float = 900.0


def measure(base: Base, settings: Settings) -> Results:
    """Times the contenders on one base.

    Raises:
      UsageError: if `only` names an unknown contender.
    """
    known = ways.contender_names(base)
    for wanted in settings.only:
        if wanted not in known:
            raise unknown_choice("--only", wanted, known)
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        bench = prepared(Path(name), base, settings)
        every = {contender.name: contender for contender in ways.contenders(bench)}
        chosen_ones = [every[wanted] for wanted in settings.only or every]
        return interleave(chosen_ones, settings.rounds, lambda line: say(line, to_stderr=True))


def prepared(folder: Path, base: Base, settings: Settings) -> Bench:
    """Writes the images and the base's file into a folder."""
    images = settings.images or base.images
    classes = write_photographs(folder / "photos", images)
    file = write_base_apart(base, folder)
    has_engines = ways.has_engines(folder)
    return Bench(folder, classes, base, file, images, settings.timeout, has_engines)


def report(results: Results) -> list[str]:
    """Returns the tables of one base, as lines of Markdown."""
    header = ["way", "images/s", "with start-up", "x textbook", "with start-up", "x Ray Data"]
    rows = [_row(results, name) for name in results.timings]
    lines = table([*header, "first batch", "peak memory"], rows)
    if shares := _shares(results):
        header = ["whole path", "images/s", "decode alone", "base alone", "limit", "share of it"]
        lines += ["", *table(header, shares)]
    if (ratio := results.ratio(ways.TWO, ways.OURS)) is not None:
        lines += ["", f"Two processes of half the threads: {ratio:.3f} of one process's rate."]
    if results.reasons:
        lines += ["", *_not_run(results.reasons)]
    return lines


def _not_run(reasons: Mapping[str, str]) -> list[str]:
    """Returns one line per reason, with the contenders that it kept from running."""
    names = defaultdict(list)
    for name, why in reasons.items():
        names[why].append(name)
    return [f"* Not run ({why}): {'; '.join(held)}." for why, held in names.items()]


def _row(results: Results, name: str) -> list[str]:
    peak = results.median(name, "peak_bytes")
    return [
        name,
        number(results.median(name, "rate")),
        number(results.median(name, "whole_rate")),
        number(results.ratio(name, ways.TEXTBOOK)),
        number(results.ratio(name, ways.TEXTBOOK, "whole_rate")),
        number(results.ratio(name, ways.RAY)),
        number(results.median(name, "first_seconds"), " s"),
        number(peak / 2**30 if peak else None, " GiB"),
    ]


def _shares(results: Results) -> list[list[str]]:
    """Returns the rows of the table of limits, one per way of ours whose parts were measured."""
    rows = []
    decoding = results.column(ways.DECODE)
    for name, timings in results.timings.items():
        if not name.startswith(ways.OURS) or not timings or timings[0].numerics is None:
            continue
        alone = _base_alone(results, *timings[0].numerics)
        if len(alone) != len(decoding) or len(decoding) != len(timings):
            continue
        limits = [serial_limit(*parts) for parts in zip(decoding, alone, strict=True)]
        share = paired_ratio([timing.rate for timing in timings], limits)
        rows.append(
            [
                f"{name} ({' '.join(timings[0].numerics)})",
                number(results.median(name, "rate")),
                number(results.median(ways.DECODE, "rate")),
                number(_middle(alone)),
                number(_middle(limits)),
                number(share),
            ]
        )
    return rows


def _base_alone(results: Results, engine: str, precision: str) -> list[float | None]:
    """Returns the best rate of a base alone at a precision, one value per round."""
    columns = [results.column(ways.engine_alone_name(engine, precision))]
    if engine == "openvino":
        columns.append(results.column(ways.openvino_alone_name(precision)))
    rounds = zip(*filter(None, columns), strict=True)
    return [max(filter(None, values), default=None) for values in rounds]


def _middle(values: Sequence[float | None]) -> float | None:
    return paired_ratio(values, [1.0] * len(values))


def run(argv: Sequence[str]) -> int:
    """Runs the command; returns its exit code."""
    parser = counted_parser("benchmarks.throughput", __doc__, rounds=3, timeout=900)
    add = parser.add_argument
    add("--bases", default=",".join(BASES), help="bases, separated by commas (default %(default)s)")
    counts = ", ".join(f"{base.images} of {name}" for name, base in BASES.items())
    add("--images", type=positive, metavar="N", help=f"number of images (default {counts})")
    add(
        "--only",
        default="",
        metavar="NAME;...",
        help="run only these contenders, named as in the table",
    )
    args = parser.parse_args(argv)
    only = tuple(name.strip() for name in args.only.split(";") if name.strip())
    settings = Settings(args.images or 0, args.rounds, only, args.timeout)
    for base in chosen(args.bases):
        title = f"{base.title}, {settings.images or base.images:,} JPEG of 500x375"
        lines = [f"{title}, medians of {settings.rounds} rounds:", ""]
        lines += report(measure(base, settings))
        publish(f"benchmarks.throughput --bases {base.name}", lines, args.write)
    return 0


if __name__ == "__main__":
    main(run)
