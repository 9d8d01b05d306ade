"""Compares stored rows with their images, or an exported file with its run.

``python -m classifier.verify``: with ``--store`` random rows are extracted again; with ``--run`` an
exported file is run beside extraction and head.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from classifier.engines.reextraction import BATCH_SIZE, Extract, Report, compare, draw_rows
from classifier.runs.run import dump_json, load_run
from featurestore import FeatureStore, UsageError, open_store
from featurestore.cli.command import Parser, key_values, main, quiet_libraries, say
from featurestore.fields import TAP

KEPT = "verifying changes nothing; give the same command again"


def parser() -> Parser:
    """Returns the command's arguments."""
    result = Parser(
        prog="python -m classifier.verify",
        description="Extracts random rows again from their source images and compares them; or "
        "compares an exported file with its run on any images.",
        epilog="Exit code 1: a row, or the exported file, differs beyond the tolerance, or nothing "
        "could be compared.",
    )
    add = result.add_argument
    add("--store", help="the feature store whose rows are extracted again")
    add("--tap", default="", metavar="NAME", help=f"{TAP} (default: all)")
    add("--rows", type=int, default=100, help="number of rows to draw (default %(default)s)")
    add("--seed", type=int, default=0, help="seed of the draw (default %(default)s)")
    add("--run", help="the training run that an exported file came from")
    add("--model", metavar="FILE", help="the exported file, or the folder of a SavedModel")
    add("--input", help="folder, pattern, list or shards of images to compare them on")
    add("--trust_model", action="store_true", help="allow Lambda layers in the stored base")
    add("--storage_options", nargs="+", default=[], metavar="K=V", help="file system options")
    add("--json", action="store_true", help="print the report as JSON and nothing else")
    return result


def run(argv: Sequence[str]) -> int:
    """Runs the command; returns its exit code."""
    quiet_libraries()
    arguments = parser().parse_args(argv)
    if arguments.rows < 1:
        raise UsageError(f"--rows must be at least 1, got {arguments.rows}")
    options = key_values(arguments.storage_options, "--storage_options")
    given = [flag for flag in ("run", "model", "input") if getattr(arguments, flag)]
    if bool(arguments.store) == bool(given) or len(given) not in (0, 3):
        got = ", ".join(f"--{flag}" for flag in ("store", *given) if getattr(arguments, flag))
        raise UsageError(
            "give --store to extract its rows again, or --run, --model and --input to compare an "
            f"exported file with its run; got {got or 'neither'}"
        )
    return _verify_model(arguments, options) if given else _verify_store(arguments, options)


def _verify_store(arguments: Namespace, options: Mapping[str, Any]) -> int:
    store = open_store(arguments.store, options, arguments.tap).at_this_moment()
    drawn = draw_rows(store, arguments.rows, arguments.seed)
    if not drawn:
        raise UsageError(f"--store: {store.url} has no rows to extract again")
    extract, numerics = load_extractor(store, arguments.trust_model)
    report = compare(store, drawn, extract, numerics, options)
    if arguments.json:
        record = {"store": store.url, "seed": arguments.seed, **asdict(report)}
        say(dump_json(record).rstrip())
    else:
        for finding in report.findings:
            say(f"{finding['kind']}: {finding['key']}: {finding['message']}")
        say(_summary(report))
    return report.exit_code


def _verify_model(arguments: Namespace, options: Mapping[str, Any]) -> int:
    from classifier.exporting.images import input_images
    from classifier.exporting.shipping import compare_file
    from classifier.exporting.words import comparison_lines, worst_lines

    trained, tell = load_run(arguments.run, options), partial(say, to_stderr=True)
    images = input_images(arguments.input, trained.spec.pixels, options, tell)
    path = Path(arguments.model)
    found = compare_file(trained, path, images, tell, arguments.trust_model)
    if arguments.json:
        record = {"run": trained.url, "file": str(path), **found.to_record()}
        say(dump_json(record).rstrip())
    else:
        for line in (*worst_lines(found), *comparison_lines(found)):
            say(line)
    if found.excess:
        say(f"beyond the limits: {found.excess}", to_stderr=True)
    return int(bool(found.excess))


def load_extractor(store: FeatureStore, trust_model: bool) -> tuple[Extract, str]:
    """Loads the store's own base: (uint8 (n, H, W, 3) -> float32 features, hash of its numerics).

    Raises:
      CorruptStore: when the stored base is missing, damaged, or holds other weights.
      SpecMismatch: when this machine computes too differently to judge the rows.
    """
    from classifier.engines import StoredBase, run_padded, serving_engine
    from classifier.engines.probes import require_numerics

    base = StoredBase(store.storage, store.spec, trust_model)
    # The engine may use a converted model; this checks the stored base itself.
    base.check()
    engine = serving_engine(base, BATCH_SIZE)
    require_numerics(store, engine)
    return (lambda images: run_padded(engine, images)), engine.numerics.hash


def _summary(report: Report) -> str:
    line = f"{report.compared} of {report.sampled} rows extracted again"
    if report.largest_difference is not None:
        line += (
            f": the largest difference is {report.largest_difference:.2g} ({report.largest_key}), "
            f"the tolerance {report.tolerance:g}"
        )
    kinds = sorted({finding["kind"] for finding in report.findings})
    counts = [f"{sum(f['kind'] == kind for f in report.findings)} {kind}" for kind in kinds]
    return line + (f"; {', '.join(counts)}" if counts else "")


if __name__ == "__main__":
    main(run, kept=KEPT)
