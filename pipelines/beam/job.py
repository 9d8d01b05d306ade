"""How an extraction's pipeline is run: where, by how many processes, and whether one waits."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from featurestore.commit import commit_count
from featurestore.errors import UsageError
from featurestore.io.storage import Storage
from pipelines.beam.loading import load_beam
from pipelines.beam.run import run_pipeline
from pipelines.extraction.share import default_processes
from pipelines.options import ExtractOptions
from pipelines.settings import WorkerSettings

if TYPE_CHECKING:
    from apache_beam.options.pipeline_options import PipelineOptions

# Google's Flex Template launcher sets it; the launcher's machine ends when the job is submitted.
LAUNCHER = "FLEX_TEMPLATE_PYTHON_PY_FILE"
AFTER = "what was committed stays; give the same command again to go on from there"


@dataclass(frozen=True)
class Job:
    """A pipeline to run.

    Attributes:
      options: Beam's; None for the local runner with its defaults, which saves importing Beam when
        nothing is new.
      is_here: whether workers share this machine with the driver.
      processes: worker processes that share this machine's cores.
      is_detached: whether the driver leaves once the job is submitted.
      hints: Beam's resource hints for the steps that run the base: name -> value.
    """

    options: PipelineOptions | None
    is_here: bool = True
    processes: int = 1
    is_detached: bool = False
    hints: tuple[tuple[str, str], ...] = ()

    @classmethod
    def of(cls, options: ExtractOptions) -> Job:
        """Reads the flags of a command.

        Raises:
          UsageError: for a flag that the runner cannot follow.
        """
        remote = options.remote
        if not options.beam_arguments:
            _refuse("--no_wait", remote.no_wait, "DirectRunner", "a job on a cluster")
            _refuse("--accelerator and --min_ram", bool(remote.hints), "DirectRunner", "Dataflow")
            return cls(None, processes=default_processes())
        load_beam(options.beam_arguments)
        from pipelines.beam import options as beam_options

        made = beam_options.make_options(options.beam_arguments)
        is_here, name = beam_options.runs_here(made), beam_options.runner_name(made)
        name = name.rsplit(".", 1)[-1]
        # Dask drops a job when its client leaves.
        stays = is_here or name == "DaskRunner"
        _refuse("--no_wait", remote.no_wait and stays, name, "a job on a cluster that survives it")
        # On other runners a hint only keeps steps from being fused.
        is_hinted = bool(remote.hints) and name != "DataflowRunner"
        _refuse("--accelerator and --min_ram", is_hinted, name, "Dataflow")
        is_detached = not stays and (remote.no_wait or LAUNCHER in os.environ)
        processes = beam_options.process_count(made)
        return cls(made, is_here, processes, is_detached, tuple(remote.hints.items()))

    def run(self, settings: WorkerSettings, chunks: int) -> None:
        """Runs the pipeline to its end; a detached one is only submitted.

        Args:
          settings: for the workers.
          chunks: number of chunks in the plan.
        """
        load_beam(())
        from pipelines.beam import options as beam_options
        from pipelines.beam.transforms import ExtractFeatures

        step = ExtractFeatures(settings, chunks, dict(self.hints))
        storage = Storage(settings.store_url, settings.storage_options)
        run_pipeline(
            self.options or beam_options.make_options(()),
            lambda pipeline: pipeline | step,
            AFTER,
            wait=not self.is_detached,
            signs=None if self.is_here else lambda: commit_count(storage),
        )


def _refuse(flags: str, given: bool, runner: str, needed: str) -> None:
    if given:
        raise UsageError(
            f"{flags}: --runner {runner} cannot follow it, which needs {needed}; leave it out, or "
            "choose another --runner"
        )
