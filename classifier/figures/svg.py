"""Turns Matplotlib figures into SVG elements of a page, with the page's colours and font."""

from __future__ import annotations

import io
import re
from typing import TYPE_CHECKING
from xml.etree import ElementTree

from classifier.figures.curves import BLUE, GREY, ORANGE, RULE, WORDS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# The page's style sheet sets these variables for each colour scheme.
VARIABLES = {BLUE: "--cool", ORANGE: "--warm", GREY: "--soft", RULE: "--line"}
_SVG, _LINK = "http://www.w3.org/2000/svg", "{http://www.w3.org/1999/xlink}href"
_LEFT_OUT = {f"{{{_SVG}}}{name}" for name in ("metadata", "style", "clipPath")}


def inline_svg(figure: Figure, summary: str) -> str:
    """Returns a figure as an ``<svg>`` element with real text and the page's colour variables.

    Args:
      figure: without a background.
      summary: describes the figure to readers who cannot see it.
    """
    import matplotlib

    buffer = io.BytesIO()
    # The salt gives the shapes of each figure on a page names of their own.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": summary}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    root = ElementTree.fromstring(buffer.getvalue())
    parents = {child: parent for parent in root.iter() for child in parent}
    for element in list(root.iter()):
        # Everything lies within the axes, so clip paths and their references are not needed.
        if element.tag in _LEFT_OUT:
            parents[element].remove(element)
        element.attrib.pop("clip-path", None)
        _restyle(element)
    for name in ("width", "height", "version"):
        root.attrib.pop(name, None)
    root.set("role", "img")
    root.set("aria-label", summary)
    ElementTree.register_namespace("", _SVG)
    ElementTree.register_namespace("xlink", _LINK[1:].partition("}")[0])
    return ElementTree.tostring(root, encoding="unicode")


def _restyle(element: ElementTree.Element) -> None:
    """Gives an element the page's colours, and its text as a tooltip."""
    style = element.get("style")
    if style:
        for color, variable in VARIABLES.items():
            style = style.replace(color, f"var({variable})")
        # The size stays; the page sets the family.
        style = re.sub(r"font: ([\d.]+px) [^;]*", r"font-size: \1", style)
        style = re.sub(r"font-family: [^;]*;? ?", "", style)
        element.set("style", style)
    name = element.get("id", "")
    if name.startswith(WORDS):
        title = ElementTree.Element(f"{{{_SVG}}}title")
        title.text = name.removeprefix(WORDS)
        element.insert(0, title)
    if element.tag == f"{{{_SVG}}}g":
        # Nothing refers to groups, and their names repeat in every figure.
        element.attrib.pop("id", None)
