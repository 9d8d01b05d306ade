"""``python -m featurestore info STORE``: a store described, without TensorFlow or Beam."""

from __future__ import annotations

import json
from collections.abc import Sequence

from featurestore.command import Parser, key_values, main, say


def build_parser() -> Parser:
    """Returns the command's parser."""
    parser = Parser(prog="python -m featurestore", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="info")
    info = commands.add_parser("info", help="what is in the store and how it was made")
    info.add_argument("store", metavar="STORE", help="the store's folder, local or any fsspec URL")
    info.add_argument("--json", action="store_true", help="print the facts as JSON")
    info.add_argument(
        "--storage_options",
        nargs="+",
        default=[],
        metavar="K=V",
        help="for the file system, such as anon=true",
    )
    return parser


def run(argv: Sequence[str]) -> int:
    """Runs the command; returns its exit code."""
    args = build_parser().parse_args(argv)
    from featurestore.info import describe, format_info
    from featurestore.store import open_store

    facts = describe(open_store(args.store, key_values(args.storage_options, "--storage_options")))
    say(json.dumps(facts, indent=2) if args.json else format_info(facts))
    return 0


if __name__ == "__main__":
    main(run)
