"""Lets Griffe, which reads the docstrings, take ``Example:`` for ``Examples:``."""

import re
from typing import Any

import griffe


class ExampleSections(griffe.Extension):
    """Shows ``Example:`` as code; Griffe's Google style knows only the plural."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Renames the section in the docstring of a module, class or function."""
        if obj.docstring:
            text = obj.docstring.value
            obj.docstring.value = re.sub(r"^( *)Example:$", r"\1Examples:", text, flags=re.M)
