"""Writes a run's page again: ``python -m classifier.report``."""

from __future__ import annotations

from collections.abc import Sequence

from classifier.reporting.tapspage import renew_taps_page
from classifier.reporting.writing import judge_on_validation, write_page
from classifier.runs.run import REPORT, dump_json, load_run
from classifier.runs.sweep import read_taps
from featurestore import open_store
from featurestore.cli.command import Parser, key_values, main, quiet_libraries, say
from featurestore.cli.streams import say_unless
from featurestore.errors import cannot_write
from featurestore.io.storage import Storage


def parser() -> Parser:
    """Returns the command's arguments."""
    result = Parser(
        prog="python -m classifier.report",
        description="Writes RUN/report.html from the files of a run: heads, curves, "
        "evaluations; of several taps, also the page that ranks them.",
    )
    add = result.add_argument
    add("--run", required=True, help="folder of the training run")
    add("--store", help="first evaluate the best head on the validation rows of this store")
    add("--storage_options", nargs="+", default=[], metavar="K=V", help="file system options")
    add("--json", action="store_true", help="print the page's address as JSON and nothing else")
    return result


def run(argv: Sequence[str]) -> int:
    """Runs the command; returns its exit code."""
    quiet_libraries()
    arguments = parser().parse_args(argv)
    file_system = key_values(arguments.storage_options, "--storage_options")
    trained = load_run(arguments.run, file_system)
    try:
        if arguments.store:
            store = open_store(arguments.store, file_system).tap_of(trained.spec.base)
            judge_on_validation(trained, store.at_this_moment())
        write_page(trained)
    except (OSError, ValueError) as error:
        fix = "the page is a file of the run, so copy the run to a folder that you may write to"
        raise cannot_write("--run", trained.url, error, fix) from error
    tell, whole, page = say_unless(arguments.json), Storage(arguments.run, file_system), trained.url
    tell(f"report: {page}/{REPORT}")
    if read_taps(whole) and renew_taps_page(whole, tell):
        page = whole.public_url
    if arguments.json:
        say(dump_json({"report": f"{page}/{REPORT}"}).rstrip())
    return 0


if __name__ == "__main__":
    main(run)
