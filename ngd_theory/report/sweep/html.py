"""Pieces of HTML; everything that comes in as text is escaped here and nowhere else."""

import base64
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape


@dataclass(frozen=True)
class Html:
    """Text that is HTML already."""

    text: str


Piece = str | Html


def join(pieces: Iterable[Piece], between: str = "\n") -> Html:
    """Pieces one after the other; plain strings are escaped."""
    return Html(between.join(_text(piece) for piece in pieces))


def tag(name: str, *inside: Piece, **attributes: str | None) -> Html:
    """An element; ``class_`` is the attribute ``class``, and one that is None is left out."""
    given = "".join(
        f' {key.rstrip("_")}="{escape(value)}"'
        for key, value in attributes.items()
        if value is not None
    )
    return Html(f"<{name}{given}>{''.join(map(_text, inside))}</{name}>")


def image(png: bytes, alt: str, width: int, height: int) -> Html:
    """A PNG inside the page."""
    source = data_uri("image/png", png)
    return Html(f'<img src="{source}" alt="{escape(alt)}" width="{width}" height="{height}">')


def table(header: Sequence[Piece], rows: Iterable[Html]) -> Html:
    """A table of ready rows, in a box that scrolls sideways by itself."""
    head = tag("thead", tag("tr", *(tag("th", name, scope="col") for name in header)))
    return tag("div", tag("table", head, tag("tbody", join(rows))), class_="scroll", tabindex="0")


def row(*cells: Piece, id: str | None = None) -> Html:
    """A table row; a cell that is an element of a table already stays as it is."""
    ready = (cell if _is_cell(cell) else tag("td", cell) for cell in cells)
    return tag("tr", *ready, id=id)


def number_cell(text: str) -> Html:
    """A cell that is not broken into lines."""
    return tag("td", text, class_="number")


def data_uri(kind: str, content: bytes) -> str:
    """The content as an address."""
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"


def _is_cell(piece: Piece) -> bool:
    return isinstance(piece, Html) and piece.text.startswith(("<td", "<th"))


def _text(piece: Piece) -> str:
    return piece.text if isinstance(piece, Html) else escape(piece)
