"""Trains classifier heads on a feature store: ``python -m classifier.train``."""

from __future__ import annotations

import os
from collections.abc import Sequence

from classifier.features.division import divide
from classifier.heads.exact import check_heads
from classifier.heads.network.augmentation import check_augment
from classifier.heads.stacked.checkpoint import remove_checkpoint
from classifier.recipes.arguments import HELP, METAVAR, with_recipe
from classifier.runs import output
from classifier.runs import run as run_folder
from classifier.training.flags import add_flags, add_run_flags, options_of
from classifier.training.run import train_run
from classifier.training.taps import check_taps, prepare_taps, train_taps
from featurestore import UsageError, open_store
from featurestore.cli.command import Parser, key_values, main, quiet_libraries, say
from featurestore.cli.streams import say_unless
from featurestore.fields import TAP
from featurestore.io.storage import Storage
from featurestore.reading.cache import AUTO, VARIABLE, parse_limit
from featurestore.taps import require_one

KEPT = "the last checkpoint stays in --output; the same command resumes from there"
EPILOG = """\
heads:
  linear[:dropout=P]                one dense layer, perhaps on features of which some are dropped
  mlp:UNITS[:relu|linear][:dropout=P]   a hidden layer before it, such as mlp:256:relu:dropout=0.5
  ridge[:l2=L,L...]                 least squares, solved exactly for every penalty at once
  logistic[:l2=L,L...]              multinomial logistic regression by L-BFGS
  conv:FILTERS,FILTERS...[:dropout=P]   3x3 convolutions with relu, 2x2 max pooling between them,
                                    then one dense layer; for pixels and feature maps
  FILE.yaml, FILE.keras             your own Keras layers before one dense layer; a line of a YAML
                                    file is such as "- Conv2D: {filters: 32, kernel_size: 3}"
  knn:K[:cosine|euclidean][:weighted|majority]   the K nearest training rows vote

Every combination of --head, --lr, --l2, --dropout, --optimizer, --seed and --label_smoothing is
trained. All linear and mlp heads share one stream of the store, and each is trained as if alone.
Keras trains conv heads and those of files, one after the other, which takes much longer.

Penalties are added to the mean loss of a row, and act on the weights of standardised features. For
linear and mlp, each penalty of --l2 makes a head of its own. ridge and logistic choose one penalty:
ridge by cross-validated accuracy from 50 between 1e-4 and 1e4, logistic by validation loss from 7
between 1e-6 and 1. To give them others, write ridge:l2=1e-2,1,100, or, in a run without linear and
mlp heads, use --l2.

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
    text = f"{TAP}; several --tap train on each, in one leaderboard"
    add("--tap", action="append", default=[], metavar="NAME", help=text)
    add("--output", required=True, help="folder of the training run")
    add_flags(result)
    add(
        "--grid",
        metavar="FILE.yaml",
        help="flags as a mapping of names to scalars or lists; flags on the command line win",
    )
    add(
        "--cache",
        default=os.environ.get(VARIABLE, AUTO),
        metavar="auto|off|SIZE",
        help="keep decoded embeddings beside a local store, at most SIZE such as 5GB, so that the "
        f"next training starts at once (default ${VARIABLE} or auto: 20 GB or half the free disk)",
    )
    add("--recipe", metavar=METAVAR, help=HELP)
    add_run_flags(result)
    return result


def run(argv: Sequence[str]) -> int:
    """Runs the command; returns its exit code."""
    quiet_libraries()
    with with_recipe("train", parser(), argv) as typed:
        arguments = parser().parse_args(typed)
        file_system = key_values(arguments.storage_options, "--storage_options")
        options = options_of(arguments, file_system)
        limit = parse_limit(arguments.cache)
    tell, storage = say_unless(arguments.json), Storage(arguments.output, file_system)
    # Every epoch must read the same rows, even while an extraction adds others.
    whole = open_store(arguments.store, file_system).at_this_moment()
    if repeated := [tap for tap in arguments.tap if arguments.tap.count(tap) > 1]:
        raise UsageError(f"--tap {repeated[0]}: is given twice; give each tap once")
    stores = {tap: whole.tap(tap).with_cache(limit) for tap in arguments.tap or [""]}
    for store in stores.values():
        require_one(store.spec, store.url)
    division = divide(whole, options.multi_label, options.validation)
    check_augment(options.augment, whole.spec.is_pixels, options.heads)
    if len(stores) > 1:
        check_taps(stores, options, division)
        prepare_taps(storage, stores, arguments.overwrite)
        summary = train_taps(stores, storage, division, options, tell, arguments.checkpoint)
    else:
        (store,) = stores.values()
        check_heads(options, store.spec.feature_shape, division)
        output.prepare_output(storage, store, arguments.overwrite)
        if arguments.overwrite and not storage.exists(run_folder.RUN):
            # --overwrite replaces an unfinished training too.
            remove_checkpoint(storage)
        summary = train_run(store, storage, division, options, tell, arguments.checkpoint)
    if arguments.json:
        say(run_folder.dump_json(summary).rstrip())
    return 0


if __name__ == "__main__":
    main(run, kept=KEPT)
