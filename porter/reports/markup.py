"""Elements of HTML and SVG. What is not markup already is escaped, so nobody's name for a file becomes an element."""

from __future__ import annotations

from html import escape

from porter.reports.document import plain

VOID = {"meta"}


class Markup(str):
    """Text that is markup: made by `tag`, or of it."""


def tag(element: str, /, *children: str, **attributes: object) -> Markup:
    """An element: `class_` is its class, `stroke_width` its stroke-width; an attribute that is None is left out."""
    given = ((key.rstrip("_").replace("_", "-"), value) for key, value in attributes.items() if value is not None)
    words = "".join(f' {key}="{escape(plain(_told(value)))}"' for key, value in given)
    inside = "" if element in VOID else f"{joined(*children)}</{element}>"
    return Markup(f"<{element}{words}>{inside}")


def joined(*children: str) -> Markup:
    """One behind the other."""
    return Markup("".join(child if isinstance(child, Markup) else escape(plain(child)) for child in children))


def _told(value: object) -> str:
    """A coordinate to a tenth of a pixel."""
    return f"{value:.1f}".removesuffix(".0") if isinstance(value, float) else str(value)
