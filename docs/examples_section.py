"""What Griffe, which reads the docstrings, needs to know of ours: ``Example:`` is ``Examples:``."""

import re
from typing import Any

import griffe


class ExampleSections(griffe.Extension):
    """Shows ``Example:`` as code; Griffe's Google style knows the plural only."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Renames the section in the docstring of a module, class or function."""
        if obj.docstring:
            text = obj.docstring.value
            obj.docstring.value = re.sub(r"^( *)Example:$", r"\1Examples:", text, flags=re.M)
