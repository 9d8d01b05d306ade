"""The frame of every page: its templates' environment, its style, and what happens if it fails."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Callable
from importlib import resources
from typing import TYPE_CHECKING

from classifier.figures.svg import VARIABLES
from featurestore.errors import HoarfrostError, UsageError, one_line

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup

PACKAGE = "classifier.reporting"
Tell = Callable[[str], None]
# Behind characters that stand in no entity of an escaped text.
_JOINT = re.compile(r"(?<=[_:/+])(?=\w)")
# Errors of judging and writing: files, rows, folders, memory.
TROUBLE = (HoarfrostError, OSError, ValueError, LookupError, TypeError, RuntimeError, MemoryError)


class ReportMissing(UsageError):
    """Jinja2 is not installed."""


def environment(*packages: str) -> Environment:
    """Returns a Jinja2 environment with the pages' templates; it escapes every value.

    Args:
      packages: further packages with a folder of templates, which come first.

    Raises:
      ReportMissing: naming what to install.
    """
    try:
        import jinja2
    except ImportError as error:
        raise ReportMissing(
            "the report page needs Jinja2, which is not installed: pip install 'hoarfrost[report]'"
        ) from error
    loaders = [jinja2.PackageLoader(name, "templates") for name in (*packages, PACKAGE)]
    found = jinja2.Environment(
        loader=jinja2.ChoiceLoader(loaders),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    # A chart's colour as the page's own variable.
    found.filters["variable"] = VARIABLES.__getitem__
    found.filters["breakable"] = _breakable
    return found


def _breakable(text: str) -> Markup:
    """Escapes a text in which the browser may break long names of layers behind their joints."""
    from markupsafe import Markup, escape

    return Markup(_JOINT.sub("<wbr>", str(escape(text))))


def asset(name: str, package: str = PACKAGE) -> str:
    """Returns the text of a file beside a package's templates, such as ``page.css``."""
    return resources.files(package).joinpath("templates", name).read_text(encoding="utf-8")


def script_hash(script: str) -> str:
    """Returns what a page names its script by: the browser runs no other one."""
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def page_or_note(write: Callable[[], str], name: str, tell: Tell) -> bool:
    """Writes a page, or reports in one line why it was skipped.

    Args:
      write: writes the page and returns its address.
      name: of the page, for the note.
      tell: takes one line for the user.

    Returns:
      Whether the page was written.
    """
    try:
        where = write()
    except TROUBLE as error:
        tell(f"note: {name} was skipped: {trouble_line(error)}")
        return False
    tell(f"report: {where}")
    return True


def trouble_line(error: BaseException) -> str:
    """Returns an error as one line; other people's errors with their class."""
    text = one_line(error)
    return text if isinstance(error, HoarfrostError) else f"{type(error).__name__}: {text}"
