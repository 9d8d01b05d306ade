"""Fits a ridge head, exactly, on a feature store of any size.

    python -m pipelines.ridge --store hoarfrost-store --output run --runner=DirectRunner

The head is the one that `python -m classifier.train --head ridge` fits. The store is read three
times: for the sums that ridge regression needs, to choose the penalty, and to turn scores into
probabilities. Flags that are not listed here go to Apache Beam, such as --runner or
--direct_num_workers.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from classifier.features.division import Division, divide
from classifier.heads.exact import check_heads, ridge_head, ridge_settings
from classifier.heads.options import TrainOptions, Trial
from classifier.heads.ridge.fit import RidgeFit
from classifier.heads.spec import HeadSpec
from classifier.runs import output
from classifier.runs import run as run_folder
from classifier.training.flags import add_flags, options_of
from classifier.training.run import Fitted, write_run
from classifier.training.trials import choices_line, keep_head
from featurestore import FeatureStore
from featurestore.cli.command import Parser, key_values, main, quiet_libraries, say
from featurestore.cli.streams import say_unless
from featurestore.fields import TAP
from featurestore.io.storage import Storage
from featurestore.store import open_tap
from pipelines.beam.loading import load_beam
from pipelines.flags import BEAM_HELP

KEPT = "no head was saved; give the same command again"
HEAD = HeadSpec("ridge")
FIT, MOMENT = "heads/ridge.npz", "heads/ridge.moment.json"
SOLVED = "heads/ridge.solved.npz"


def build_parser() -> Parser:
    """Returns the command's parser, which leaves Beam's flags unparsed."""
    parser = Parser(prog="python -m pipelines.ridge", description=__doc__, epilog=BEAM_HELP)
    add = parser.add_argument
    add("--store", required=True, help="feature store: a folder or any fsspec URL")
    add("--tap", default="", metavar="NAME", help=TAP)
    add("--output", required=True, metavar="RUN", help="folder of the training run")
    add_flags(parser, ("l2", "folds", "class_weight", "standardise"))
    add("--storage_options", nargs="+", default=[], metavar="K=V", help="for the file systems")
    add("--overwrite", action="store_true", help="replace a run that is in --output")
    add("--json", action="store_true", help="print the summary as JSON and nothing else")
    return parser


def run(argv: Sequence[str]) -> int:
    """Runs the command; returns its exit code."""
    quiet_libraries()
    parser = build_parser()
    args, rest = parser.parse_known_args(argv)
    if rest:
        # Imported only if needed, as importing Beam takes a second.
        load_beam(rest)
        from pipelines.beam.options import check_beam_arguments, refuse_local

        check_beam_arguments(parser, rest)
        refuse_local(rest, store=[args.store], output=[args.output])
    file_system = key_values(args.storage_options, "--storage_options")
    options = replace(options_of(args, file_system), heads=(HEAD,))
    # Every pass and every worker must read the rows that are divided here.
    store = open_tap(args.store, file_system, args.tap).at_this_moment()
    storage = Storage(args.output, file_system)
    division = divide(store)
    check_heads(options, store.spec.feature_shape, division)
    output.prepare_output(storage, store, args.overwrite)
    tell = say_unless(args.json)

    def fit(replace_older: Callable[[], None]) -> Fitted:
        tell(choices_line(HEAD.slug, options.penalties_of(HEAD)))
        started = time.perf_counter()
        found = fit_by_beam(store, storage, division, options, rest)
        trained = ridge_head(found, store.spec.feature_shape, division.stored_rows, started)
        replace_older()
        record = keep_head(storage, HEAD.slug, Trial(HEAD), trained, 1, tell)
        return Fitted([record], [], "streamed")

    summary = write_run(store, storage, division, options, tell, fit)
    if args.json:
        say(run_folder.dump_json(summary).rstrip())
    return 0


def fit_by_beam(
    store: FeatureStore,
    storage: Storage,
    division: Division,
    options: TrainOptions,
    beam_arguments: Sequence[str],
) -> RidgeFit:
    """Fits the head in a pipeline.

    Args:
      store: to learn from.
      storage: the run's folder. Workers must reach it too, as it holds the fit, the solutions and
        the store's moment meanwhile.
      division: which rows train and validate.
      options: penalties, folds, weights.
      beam_arguments: Beam's own flags.
    """
    load_beam(beam_arguments)
    from pipelines.beam import options as beam_options
    from pipelines.beam.ridge import FitRidge, RidgeSource
    from pipelines.beam.run import run_pipeline

    settings = ridge_settings(HEAD, options, store.spec.feature_shape, division)
    store = store.at_this_moment()
    assert store.moment is not None
    source = RidgeSource(
        store.storage.full_url,
        storage.full_url,
        storage.options,
        division,
        MOMENT,
        SOLVED,
        store.spec.tap,
    )
    step = FitRidge(source, settings, len(store.markers()), FIT)
    try:
        storage.write(MOMENT, store.moment.to_json())
        run_pipeline(
            beam_options.make_options(beam_arguments),
            lambda pipeline: pipeline | step,
            "no run was written; give the same command again",
        )
        return RidgeFit.from_bytes(storage.read(FIT))
    finally:
        for name in (FIT, MOMENT, SOLVED):
            storage.remove(name)


if __name__ == "__main__":
    main(run, kept=KEPT)
