"""Tells what an extraction would run into on this machine, and what to do about it.

    python -m pipelines.doctor
    python -m pipelines.doctor --runner=DataflowRunner --input gs://bucket/in --output gs://bucket/out

Takes every flag of pipelines.extract, and Beam's. It starts nothing, reads no image, and asks only
the cluster that you name. Exits with 1 if it found an error.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict

from featurestore.cli.command import Parser, main, quiet_libraries, say
from featurestore.errors import UsageError
from pipelines.diagnosis.finding import ERROR, WARNING, Case, Finding
from pipelines.flags import GROUPS, add_flags, extract_options


def build_parser() -> Parser:
    """Returns the command's parser; Beam's flags are left over by it."""
    parser = Parser(prog="python -m pipelines.doctor", description=__doc__)
    for title, flags in GROUPS.items():
        add_flags(parser.add_argument_group(title).add_argument, flags)
    parser.add_argument("--json", action="store_true", help="print the findings as JSON only")
    return parser


def examine(argv: Sequence[str]) -> tuple[list[Finding], bool]:
    """Looks at the machine and at a command.

    Args:
      argv: the flags of an extraction.

    Returns:
      (the findings, whether to print JSON).

    Raises:
      UsageError: for a bad value.
    """
    parser = build_parser()
    args, rest = parser.parse_known_args(argv)
    options = extract_options(args, tuple(rest))
    # Imports Beam, which takes a second.
    from pipelines.beam.options import check_beam_arguments
    from pipelines.beam.settings import read_settings
    from pipelines.diagnosis.diagnose import diagnose

    refused: list[Finding] = []
    try:
        check_beam_arguments(parser, rest)
    except UsageError as error:
        # Not the end: the findings may say why, and what else is wrong.
        refused.append(Finding(ERROR, "command", str(error)))
    try:
        settings = read_settings(rest)
    except SystemExit as error:
        raise UsageError(refused[0].message) from error
    return [*diagnose(Case(options=options, **settings)), *refused], args.json


def run(argv: Sequence[str]) -> int:
    """Runs the command; returns its exit code."""
    quiet_libraries()
    findings, as_json = examine(argv)
    errors, warnings = (sum(one.severity == of for one in findings) for of in (ERROR, WARNING))
    if as_json:
        listed = [asdict(finding) for finding in findings]
        say(json.dumps({"findings": listed, "errors": errors, "warnings": warnings}, indent=2))
    else:
        for finding in findings:
            say(str(finding))
        say(f"{errors} errors, {warnings} warnings")
    return 1 if errors else 0


if __name__ == "__main__":
    main(run)
