"""Writes a head with its base as one file: ``python -m classifier.export``."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from classifier.exporting.options import PRECISIONS, ROWS, SUFFIXES, ExportOptions
from classifier.recipes.arguments import HELP, METAVAR, with_recipe
from classifier.runs.run import dump_json, load_run
from featurestore.cli.command import Parser, key_values, main, quiet_libraries, say

KEPT = "nothing was exported; give the same command again"
EPILOG = """\
The model takes uint8 pixels (n, H, W, 3) and gives float32 probabilities (n, classes). It ends by
checking itself: a fresh process runs the file on the run's probe images and on images of the store,
and its probabilities are compared with those of extraction and head.

Exit code 1: the file differs beyond the limits of its precision; it is kept as NAME.refused.SUFFIX.

example:
  python -m classifier.export --run run --format tflite --precision float16 --output digits.tflite
"""


def parser() -> Parser:
    """Returns the command's arguments."""
    result = Parser(
        prog="python -m classifier.export",
        description="Writes preprocessing, base and head of a run as one file, and checks it.",
        epilog=EPILOG,
    )
    add = result.add_argument
    add("--run", required=True, help="folder of the training run")
    add("--format", required=True, metavar="|".join(SUFFIXES), help="format of the file")
    add("--output", required=True, metavar="PATH", help="local file, or folder of a SavedModel")
    add("--head_id", help="head to export (default: the first of the leaderboard)")
    add(
        "--precision",
        default="float32",
        metavar="|".join(PRECISIONS),
        help="of a TFLite file (default %(default)s)",
    )
    add(
        "--calibrated",
        action="store_true",
        help="divide logits by the temperature fitted on the validation rows",
    )
    text = "images to check on, beside the probe images of the run (default %(default)s)"
    add("--rows", type=int, default=ROWS, help=text)
    text = "images to check on, and to calibrate int8 with (default: those of the store)"
    add("--input", default="", metavar="URI", help=text)
    add("--overwrite", action="store_true", help="replace an export that is at --output")
    add("--trust_model", action="store_true", help="allow Lambda layers in the run's base")
    add("--recipe", metavar=METAVAR, help=HELP)
    add("--storage_options", nargs="+", default=[], metavar="K=V", help="file system options")
    add("--json", action="store_true", help="print the report as JSON and nothing else")
    return result


def run(argv: Sequence[str]) -> int:
    """Runs the command; returns its exit code."""
    quiet_libraries()
    with with_recipe("export", parser(), argv) as typed:
        arguments = parser().parse_args(typed)
        options = ExportOptions(
            arguments.format,
            Path(arguments.output),
            arguments.precision,
            arguments.rows,
            arguments.overwrite,
            arguments.trust_model,
            arguments.input,
        )
    trained = load_run(arguments.run, key_values(arguments.storage_options, "--storage_options"))
    head_id = trained.head_id(arguments.head_id)
    # Heavy imports come after the mistakes that need none.
    from classifier.exporting.shipping import ship
    from classifier.exporting.words import comparison_lines, shipped_line
    from classifier.judgement.prediction import required_temperature

    temperature = required_temperature(trained, head_id) if arguments.calibrated else 1.0
    shipped = ship(trained, head_id, temperature, options, partial(say, to_stderr=True))
    excess = shipped.comparison.excess
    if arguments.json:
        say(dump_json(shipped.to_record()).rstrip())
    else:
        say(shipped_line(shipped, options))
        for line in comparison_lines(shipped.comparison):
            say(line)
    if excess:
        say(f"refused: {excess}; kept as {shipped.path}", to_stderr=True)
    return int(bool(excess))


if __name__ == "__main__":
    main(run, kept=KEPT)
