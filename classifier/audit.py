"""Tells what a store knows about its images: ``python -m classifier.audit``."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from classifier.runs.run import Run, dump_json, load_run
from featurestore import FeatureStore, UsageError, layout, open_store
from featurestore.cli.command import Parser, key_values, main, quiet_libraries, say
from featurestore.cli.streams import say_unless
from featurestore.errors import cannot_write
from featurestore.fields import TAP
from featurestore.io.places import relation
from featurestore.io.storage import Storage
from featurestore.taps import require_one

if TYPE_CHECKING:
    from classifier.auditing.findings import Findings

JSON, PAGE = "audit.json", "audit.html"
DEFAULT = "hoarfrost-audit"


def parser() -> Parser:
    """Returns the command's arguments."""
    result = Parser(
        prog="python -m classifier.audit",
        description="Finds copies of images within and across splits, doubtful labels, and "
        "outliers, from the stored features.",
        epilog="Writes audit.json, leaks.csv, labels.csv, outliers.csv and audit.html. labels.csv "
        "is a table for python -m featurestore relabel.",
    )
    add = result.add_argument
    add("--store", required=True, help="feature store to look at")
    add("--tap", default="", metavar="NAME", help=TAP)
    add("--run", help="training run; its accuracy is restated without leaked rows")
    add("--head_id", help="head of the run (default: the first of the leaderboard)")
    add("--against", metavar="STORE2", help="store of the same features; tells how it has drifted")
    text = "folder for the files (default ./%(default)s)"
    add("--output", default=DEFAULT, metavar="FOLDER", help=text)
    text = "pairs of at least this cosine are near copies, whatever their images look like"
    add("--duplicate_cosine", type=float, metavar="C", help=text)
    text = "pairs whose images are compared, at most, in each of two orders; 0 decides by features "
    text += "alone (default %(default)s)"
    add("--compare", type=int, default=5000, metavar="N", help=text)
    text = "images up to which all pairs of features are compared; of more, neighbours are sought "
    text += "among alike ones, and the share that this finds is reported (default %(default)s)"
    add("--exact_rows", type=int, default=50_000, metavar="N", help=text)
    text = "how the page's map is made: by principal directions, or by UMAP, which takes longer "
    text += "and needs hoarfrost[umap] (default %(default)s)"
    add("--map", choices=("pca", "umap"), default="pca", help=text)
    add("--storage_options", nargs="+", default=[], metavar="K=V", help="file system options")
    add("--json", action="store_true", help="print the findings as JSON and nothing else")
    return result


def run(argv: Sequence[str]) -> int:
    """Runs the command; returns its exit code."""
    quiet_libraries()
    arguments = parser().parse_args(argv)
    _check(arguments)
    file_system = key_values(arguments.storage_options, "--storage_options")
    store = open_store(arguments.store, file_system, arguments.tap).at_this_moment()
    trained = _run_of(arguments, store, file_system)
    store = store.tap_of(trained[0].spec.base) if trained[0] else store
    require_one(store.spec, store.url)
    other = _other(arguments, store, file_system)
    output = Storage(arguments.output, file_system)
    _check_output(output, store)
    tell = say_unless(arguments.json)

    from classifier.auditing.rows import read_rows

    with read_rows(store) as rows:
        from classifier.auditing.audit import audit
        from classifier.auditing.leaks import CopyOptions
        from classifier.auditing.places import check_way

        check_way(arguments.map, len(rows))
        cosine, compare = arguments.duplicate_cosine, arguments.compare
        options = CopyOptions(cosine, compare, arguments.exact_rows)
        findings = audit(store, rows, options, trained, other, arguments.map)
        record = findings.to_record()
        problem = _write(output, findings, record, store, tell)
    if arguments.json:
        say(dump_json(record).rstrip())
    else:
        for line in _lines(record):
            say(line)
    if problem:
        raise problem
    tell(f"written to {output.public_url}")
    return 0


def _check(arguments: Namespace) -> None:
    cosine = arguments.duplicate_cosine
    if cosine is not None and not -1 <= cosine <= 1:
        raise UsageError(f"--duplicate_cosine must be from -1 to 1, got {cosine:g}; try 0.95")
    if arguments.compare < 0:
        raise UsageError(f"--compare must be at least 0, got {arguments.compare}")
    if arguments.exact_rows < 1:
        raise UsageError(f"--exact_rows must be at least 1, got {arguments.exact_rows}")
    if arguments.head_id and not arguments.run:
        raise UsageError("--head_id is for a --run, and there is none; add --run or leave it out")


def _run_of(
    arguments: Namespace, store: FeatureStore, file_system: Mapping[str, Any]
) -> tuple[Run | None, str]:
    if not arguments.run:
        return None, ""
    trained = load_run(arguments.run, file_system)
    fix = "give the run that was trained on this store, or one with the same settings"
    own = store.tap_of(trained.spec.base).spec
    trained.spec.require_same(own, f"--run: the run at {trained.url}", fix)
    return trained, trained.head_id(arguments.head_id)


def _other(
    arguments: Namespace, store: FeatureStore, file_system: Mapping[str, Any]
) -> FeatureStore | None:
    if not arguments.against:
        return None
    other = open_store(arguments.against, file_system).tap_of(store.spec.base).at_this_moment()
    fix = "give a store with the same settings"
    store.spec.require_same(other.spec, f"--against: the store at {store.url}", fix)
    return other


def _check_output(output: Storage, store: FeatureStore) -> None:
    """Refuses a place where the audit's files would be taken for those of a store."""
    found = relation(output.url, store.storage.url, output.options)
    if found in ("equals", "lies inside"):
        raise UsageError(
            f"--output: {output.public_url!r} {'is' if found == 'equals' else found} the feature "
            "store, whose files must stay as they are; choose another folder"
        )
    try:
        if output.exists(layout.SPEC):
            raise UsageError(
                f"--output: {output.public_url!r} is a feature store; choose another folder"
            )
    except (OSError, ValueError) as error:
        raise cannot_write("--output", output.public_url, error) from error


def _write(
    output: Storage,
    findings: Findings,
    record: Mapping[str, Any],
    store: FeatureStore,
    tell: Callable[[str], None],
) -> UsageError | None:
    """Writes the files; returns the error, if any, so that the findings are still printed."""
    from classifier.auditing import findings as tables
    from classifier.auditing.page import render
    from classifier.reporting.frame import page_or_note

    def page() -> str:
        output.write(PAGE, render(findings, store, store.storage.options))
        return f"{output.public_url}/{PAGE}"

    try:
        output.write("leaks.csv", tables.csv_text(tables.LEAK_COLUMNS, findings.leaks()))
        output.write("labels.csv", tables.csv_text(tables.LABEL_COLUMNS, findings.labels()))
        output.write("outliers.csv", tables.csv_text(tables.OUTLIER_COLUMNS, findings.outlying()))
        output.write(JSON, dump_json(record))
    except (OSError, ValueError) as error:
        problem = cannot_write("--output", output.public_url, error)
        problem.__cause__ = error
        return problem
    page_or_note(page, PAGE, tell)
    return None


def _lines(record: Mapping[str, Any]) -> list[str]:
    """Returns the summary for a reader."""
    from classifier.auditing.drift import describe

    leaks, labels, outliers = record["leaks"], record["labels"], record["outliers"]
    near = leaks["pairs"] - leaks["exact"]
    near_across = leaks["across_splits"] - leaks["exact_across_splits"]
    lines = [
        f"{record['rows']:,} images of {record['store']}",
        f"copies: {leaks['exact']:,} exact pairs, {leaks['exact_across_splits']:,} of them across "
        f"splits; {near:,} near pairs, {near_across:,} of them across splits",
        f"  near copies are pairs with {leaks['rule']}",
    ]
    if found := leaks["recall"]:
        lines.append(
            f"  note: not all pairs of features were compared, each row's only with those in "
            f"{found['probed']:,} of {found['cells']:,} cells; of {found['drawn']:,} rows drawn, "
            f"this finds the nearest neighbour of {found['nearest']:.1%}; --exact_rows "
            f"{record['rows']} compares all"
        )
    if leaks["labels_differ"]:
        lines.append(f"  {leaks['labels_differ']:,} pairs have different labels")
    if leaks["images_not_read"]:
        lines.append(
            f"  note: of {leaks['candidates']:,} candidates the images of "
            f"{leaks['images_not_read']:,} could not be read, so features decided"
        )
    if leaks["left_out"]:
        lines.append(
            f"  note: {leaks['left_out']:,} less similar pairs were not compared; --compare "
            "takes more"
        )
    lines += map(_accuracy_line, record["restated"])
    lines.append(
        f"labels: {labels['doubtful']:,} of {labels['checked']:,} are doubtful; look through "
        "labels.csv, then give it to python -m featurestore relabel"
    )
    lines += [
        f"  {item['key']}: {item['given_label']} -> {item['label']} (margin {item['margin']:.2f})"
        for item in labels["first"][:3]
    ]
    lines.append(
        f"outliers: {outliers['found']:,} lie beyond {outliers['fence']:.2f} median distances"
    )
    if found := record["drift"]:
        lines.append(f"drift: {describe(found)}")
    return [*lines, *(f"note: {note}" for note in record["notes"])]


def _accuracy_line(item: Mapping[str, Any]) -> str:
    whole, clean = item["all"], item["without"]
    rest = "all of them leaked"
    if clean:
        rest = (
            f"{clean['estimate']:.4f} ({clean['lower']:.4f} to {clean['upper']:.4f}) without "
            f"{item['leaked']:,} leaked rows"
        )
    return f"accuracy on {item['split']}: {whole['estimate']:.4f} of {whole['rows']:,} rows, {rest}"


if __name__ == "__main__":
    main(run)
