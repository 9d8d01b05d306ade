"""Trains layers of a base from stored maps or pixels: ``python -m classifier.finetune``."""

from __future__ import annotations

from collections.abc import Sequence

from classifier.heads.exact import check_rows
from classifier.heads.network.augmentation import check_augment
from classifier.heads.stacked.checkpoint import remove_checkpoint
from classifier.recipes.arguments import HELP, METAVAR, with_recipe
from classifier.runs import output
from classifier.runs import run as run_folder
from classifier.training.finetuning import Tuning, division_of, fine_tune, require_ready
from classifier.training.flags import add_flags, add_run_flags, options_of
from featurestore.cli.command import Parser, key_values, main, quiet_libraries, say
from featurestore.cli.streams import say_unless
from featurestore.errors import UsageError
from featurestore.fields import TAP
from featurestore.io.storage import Storage
from featurestore.store import open_tap

KEPT = "the last checkpoint stays in --output; the same command resumes from there"
EPILOG = """\
The store holds the same images as the store of the run, cut at an earlier layer of the same base:
at a bottleneck (python -m classifier.bases NAME marks them) at or before the first layer to train.
Layers before the cut are never computed again, so an epoch costs what follows the cut. A store of
--model pixels serves for any --unfreeze, and for --augment.

RUN2 is a run like any other, whose head holds the layers behind the cut: evaluate, predict, report,
export, verify and pipelines.score take it.

example:
  python -m pipelines.extract --input photos --output maps --layer block4_pool
  python -m classifier.finetune --run run --store maps --unfreeze 4 --lr 1e-5 --output finetuned
"""
FLAGS = (
    "lr", "optimizer", "momentum", "epochs", "batch_size", "seed", "patience", "class_weight",
    "label_smoothing", "augment", "memory",
)  # fmt: skip
DEFAULTS = {"lr": "1e-5", "epochs": "10", "batch_size": "32"}


def parser() -> Parser:
    """Returns the command's arguments."""
    result = Parser(
        prog="python -m classifier.finetune",
        description="Continues the training of a run's head together with the last layers of its "
        "base, from a store that is cut before them; the best epoch by validation loss is kept.",
        epilog=EPILOG,
    )
    add = result.add_argument
    add("--run", required=True, help="folder of the training run to begin with")
    add("--store", required=True, help="feature store of pixels, or of an earlier layer")
    add("--tap", default="", metavar="NAME", help=TAP)
    add("--output", required=True, metavar="RUN2", help="folder of the new run")
    add(
        "--unfreeze",
        required=True,
        metavar="LAYER|N|all|0",
        help="layers of the base to train: from LAYER to the end, the last N, all, or none",
    )
    add("--head_id", help="head to begin with (default: the first of the leaderboard)")
    add_flags(result, FLAGS, DEFAULTS)
    text = "begin with a head that was still improving when its training ended"
    add("--allow_unconverged", action="store_true", help=text)
    add("--trust_model", action="store_true", help="allow Lambda layers of the base")
    add("--recipe", metavar=METAVAR, help=HELP)
    add_run_flags(result)
    return result


def run(argv: Sequence[str]) -> int:
    """Runs the command; returns its exit code."""
    quiet_libraries()
    with with_recipe("finetune", parser(), argv) as typed:
        arguments = parser().parse_args(typed)
        file_system = key_values(arguments.storage_options, "--storage_options")
        options = options_of(arguments, file_system, standardise="none")
    if len(options.trials()) > 1:
        raise UsageError("--lr, --optimizer, --seed and --label_smoothing take one value each here")
    began = run_folder.load_run(arguments.run, file_system)
    head_id = began.head_id(arguments.head_id)
    limits = arguments.trust_model, arguments.checkpoint
    tuning = Tuning(began, head_id, arguments.unfreeze, *limits)
    store = open_tap(arguments.store, file_system, arguments.tap).at_this_moment()
    check_augment(options.augment, store.spec.is_pixels)
    require_ready(tuning, arguments.allow_unconverged)
    division = division_of(began, store)
    check_rows(options, division)
    storage = Storage(arguments.output, file_system)
    if storage.url == began.storage.url:
        raise UsageError("--output: is the folder of --run, which would be lost; choose another")
    output.prepare_output(storage, store, arguments.overwrite)
    if arguments.overwrite and not storage.exists(run_folder.RUN):
        remove_checkpoint(storage)
    tell = say_unless(arguments.json)
    summary = fine_tune(tuning, store, storage, division, options, tell)
    if arguments.json:
        say(run_folder.dump_json(summary).rstrip())
    return 0


if __name__ == "__main__":
    main(run, kept=KEPT)
