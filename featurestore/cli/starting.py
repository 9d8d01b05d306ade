"""The first moment of a command: every package imports this before anything that takes long.

While ``python -m PACKAGE.MODULE`` imports the package, ``sys.argv`` begins with ``-m``. Only then
is the process ours; a program that uses the packages keeps its own signals and streams.
"""

import sys

from featurestore.cli import interrupts, streams

if sys.argv[:1] == ["-m"]:
    streams.open_closed()
    interrupts.listen()
