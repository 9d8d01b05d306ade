"""Imports without optional packages, which would take longer than what they are for.

A library that finds pandas imports it, whatever it is asked to do. These functions make such a
package look as if it were not installed while the library decides.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.abc import MetaPathFinder
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow as pa


class _Absent(MetaPathFinder):
    """Makes packages look as if they were not installed, for one thread."""

    def __init__(self, names: Sequence[str]) -> None:
        self._names, self._thread = names, threading.get_ident()

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> None:
        hidden = any(f"{fullname}.".startswith(f"{name}.") for name in self._names)
        if hidden and threading.get_ident() == self._thread:
            raise ModuleNotFoundError(f"No module named {fullname!r}", name=fullname)


@contextmanager
def absent(*names: str) -> Iterator[None]:
    """Hides packages from the imports of this thread while the context lasts.

    What is loaded already stays loaded, and the packages can be imported afterwards.

    Args:
      names: of packages, such as ``pandas`` or ``google.cloud``.

    Example:
      >>> with absent("json.tool"):
      ...     import json.tool
      Traceback (most recent call last):
        ...
      ModuleNotFoundError: No module named 'json.tool'
    """
    finder = _Absent(names)
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)


def keep_pandas_out() -> None:
    """Settles that PyArrow goes without pandas, which it would import for its first list.

    The import takes as long as extracting some hundred images. PyArrow still imports pandas when it
    makes a data frame.
    """
    import pyarrow as pa

    with absent("pandas"):
        pa.array([0])


def pandas_for(schema: pa.Schema) -> None:
    """Lets PyArrow use pandas, if it is installed, for times in nanoseconds.

    Python's own types end at microseconds, and PyArrow refuses to cut a time.

    Args:
      schema: of the table that is read.
    """
    if "[ns" in str(schema):
        import pyarrow as pa

        with suppress(ImportError):
            pa.array([], pa.int64()).to_pandas()
