"""What the Flex Template's launcher runs: an extraction, whose flags are the template's parameters.

A template gives every parameter as ``--name=value``; switches take no value and lists take several.
"""

from __future__ import annotations

import runpy
import sys
from collections.abc import Iterator, Sequence

from pipelines.flags import FLAGS, default_of


def arguments(parameters: Sequence[str]) -> Iterator[str]:
    """Turns a template's parameters into the flags of pipelines.extract; passes Beam's on.

    Example:
      >>> list(arguments(["--dedupe=true", "--prune=false", "--input=gs://a gs://b", "--region=x"]))
      ['--dedupe', '--input', 'gs://a', 'gs://b', '--region=x']
    """
    for given in parameters:
        name, equals, value = given.removeprefix("--").partition("=")
        default = default_of(name) if name in FLAGS and equals else None
        if isinstance(default, bool):
            yield from [f"--{name}"] * (value.lower() == "true")
        elif isinstance(default, list):
            yield from (f"--{name}", *value.split())
        else:
            yield given


if __name__ == "__main__":
    sys.argv[1:] = arguments(sys.argv[1:])
    runpy.run_module("pipelines.extract", run_name="__main__", alter_sys=True)
