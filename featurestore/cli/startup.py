"""The start of a command: every package imports this module before any slow import.

``sys.argv`` begins with ``-m`` while ``python -m PACKAGE.MODULE`` imports the package. Only then
does the process belong to the command. A program that imports the packages keeps its own signals
and streams.
"""

import sys

from featurestore.cli import interrupts, streams

if sys.argv[:1] == ["-m"]:
    streams.open_closed()
    interrupts.listen()
