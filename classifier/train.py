"""Trains classifier heads on a feature store: ``python -m classifier.train``."""

from __future__ import annotations

import os
from collections.abc import Sequence

from classifier.features.division import divide
from classifier.heads.exact import check_heads
from classifier.heads.head import outputs_for
from classifier.heads.stacked.checkpoint import SECONDS, remove_checkpoint
from classifier.runs import output
from classifier.runs import run as run_folder
from classifier.training.flags import add_flags, options_of
from classifier.training.run import train_run
from featurestore import open_store
from featurestore.cli.command import Parser, key_values, main, quiet_libraries, say
from featurestore.cli.streams import say_unless
from featurestore.io.storage import Storage
from featurestore.reading.cache import AUTO, VARIABLE, parse_limit

KEPT = "the last checkpoint stays in --output; the same command goes on from there"
EPILOG = """\
heads:
  linear                            one dense layer
  mlp:UNITS[:relu|linear][:dropout=P]   a hidden layer before it, such as mlp:256:relu:dropout=0.5
  ridge[:l2=L,L...]                 least squares, solved exactly for every penalty at once
  logistic[:l2=L,L...]              multinomial logistic regression by L-BFGS
  knn:K[:cosine|euclidean][:weighted|majority]   the K nearest training rows vote

All combinations of --head, --lr, --l2, --dropout, --optimizer, --seed and --label_smoothing are
trained, linear and mlp heads together over one stream of the store, each as if it were alone.

Penalties are beside the mean loss of a row, on standardised features. Those of --l2 are for linear
and mlp, and each makes a head of its own. ridge and logistic choose one among penalties of their
own: ridge by cross-validated accuracy from 50 of 1e-4 to 1e4, logistic by validation loss from 7 of
1e-6 to 1; or from those in their --head, such as ridge:l2=1e-2,1,100; or from --l2 where a run has
neither linear nor mlp heads.

example:
  python -m classifier.train --store hoarfrost-store --output run \\
      --head linear --head mlp:256:relu --dropout 0,0.5 --lr 1e-3,1e-4 --seed 0,1,2
"""


def parser() -> Parser:
    """Returns the command's arguments."""
    result = Parser(
        prog="python -m classifier.train",
        description="Trains heads on stored features; the best by validation loss comes first.",
        epilog=EPILOG,
    )
    add = result.add_argument
    add("--store", required=True, help="feature store: a folder or any fsspec URL")
    add("--output", required=True, help="folder of the training run")
    add_flags(result)
    add(
        "--grid",
        metavar="FILE.yaml",
        help="a mapping with the names above as keys, scalars or lists; flags given here win",
    )
    add(
        "--cache",
        default=os.environ.get(VARIABLE, AUTO),
        metavar="auto|off|SIZE",
        help="keep decoded embeddings beside a local store, at most SIZE such as 5GB, so that the "
        f"next training starts at once (default ${VARIABLE} or auto: 20 GB or half the free disk)",
    )
    add(
        "--checkpoint",
        type=float,
        default=SECONDS,
        metavar="SECONDS",
        help="between two checkpoints of the training, from which the same command goes on after a "
        "kill (default %(default)g)",
    )
    add("--storage_options", nargs="+", default=[], metavar="K=V", help="for the file system")
    add("--overwrite", action="store_true", help="replace a run that is in --output")
    add("--json", action="store_true", help="print the summary as JSON and nothing else")
    return result


def run(argv: Sequence[str]) -> int:
    """Runs the command; returns its exit code."""
    quiet_libraries()
    arguments = parser().parse_args(argv)
    file_system = key_values(arguments.storage_options, "--storage_options")
    options = options_of(arguments, file_system)
    limit = parse_limit(arguments.cache)
    # The rows of an epoch must be those of the last, also while an extraction goes on.
    store = open_store(arguments.store, file_system).with_cache(limit).at_this_moment()
    storage = Storage(arguments.output, file_system)
    division = divide(store, options.multi_label)
    outputs_for(division.classes)
    check_heads(options, store.spec.feature_shape, division)
    output.prepare_output(storage, store, arguments.overwrite)
    if arguments.overwrite and not storage.exists(run_folder.RUN):
        # What it is to replace is the unfinished training that is there.
        remove_checkpoint(storage)
    tell = say_unless(arguments.json)

    summary = train_run(store, storage, division, options, tell, arguments.checkpoint)
    if arguments.json:
        say(run_folder.dump_json(summary).rstrip())
    return 0


if __name__ == "__main__":
    main(run, kept=KEPT)
