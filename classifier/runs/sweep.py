"""The folder of a training over several taps of a store: a run for each, and one leaderboard.

    RUN/
      taps.json                      the taps and their runs, best first; written last
      taps/<name>/                   the run of a tap, as `classifier.runs.run` describes it
      leaderboard.json, .csv         all heads of all taps by validation loss
      summary.json                   with the standings of the taps
      report.html                    the page over all taps

A command that is given ``RUN`` uses the run of the best tap. Each of the others is a run too, whose
address is ``RUN/taps/<name>``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping

from featurestore.errors import CorruptStore, cause
from featurestore.io.storage import Storage

TAPS = "taps.json"
FOLDER = "taps"
_FORMAT = {"format": "hoarfrost-taps", "format_version": 1}


def folders_of(taps: Iterable[str]) -> dict[str, str]:
    """Returns tap -> the folder of its run in that of the training.

    Example:
      >>> folders_of(["inner/last", "last:avg", "last:avg+inner/last"])["inner/last"]
      'taps/inner_last'
    """
    found: dict[str, str] = {}
    for tap in taps:
        # A layer's path may hold characters that a file name may not.
        folder = f"{FOLDER}/{re.sub(r'[^A-Za-z0-9_.+-]', '_', tap)}"
        while folder in found.values():
            folder += "_"
        found[tap] = folder
    return found


def write_taps(storage: Storage, runs: Mapping[str, str]) -> None:
    """Writes which run each tap has, best first; from now on the training is finished."""
    storage.write(TAPS, json.dumps({**_FORMAT, "runs": dict(runs)}, indent=2) + "\n")


def read_taps(storage: Storage) -> dict[str, str]:
    """Returns tap -> the folder of its run, best first; {} for another folder than a training's.

    Raises:
      CorruptStore: when the file is damaged, or of another format.
    """
    try:
        record = json.loads(storage.read(TAPS))
        if {name: record.pop(name) for name in _FORMAT} != _FORMAT or not record["runs"]:
            raise ValueError("it is of another format")
        return dict(record["runs"])
    except FileNotFoundError:
        return {}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CorruptStore(
            f"{storage.public_url}/{TAPS}: not the taps of a training ({cause(error)}); train again"
        ) from error
