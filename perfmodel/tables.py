"""Tables from one place: aligned text for a terminal, Markdown for a file, HTML for a notebook."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

#: what begins like a number is aligned at the right
_NUMBER = re.compile(r"[-+±]?[\d.]|inf|nan")


def number(value: Any) -> str:
    """A cell: floats to six digits, whole numbers whole, everything else as it is."""
    return f"{value:.6g}" if isinstance(value, float) and abs(value) < 1e15 else str(value)


def text(rows: Iterable[Sequence[Any] | None], header: Sequence[str] = ()) -> str:
    """Columns of aligned text; a column of numbers is aligned at the right.

    Args:
        rows: cells of each row, all of one length; None draws a line.
        header: of each column; none where it is left out.

    Returns:
        The lines, without a line's end behind the last.

    >>> print(text([["a", 1], None, ["bc", 10.5]], ["name", "hops"]))
    name  hops
    a        1
    ----------
    bc    10.5
    """
    cells = [None if row is None else [number(cell) for cell in row] for row in rows]
    columns = list(zip(*(row for row in cells if row is not None)))
    right = [all(_NUMBER.match(cell) for cell in column if cell) for column in columns]
    head = [list(header)] if header else []
    wide = [max(map(len, column)) for column in zip(*head, *(row for row in cells if row is not None))]
    lines = []
    for row in [*head, *cells]:
        if row is None:
            lines.append("-" * (sum(wide) + 2 * (len(wide) - 1)))
        else:
            padded = (cell.rjust(w) if r else cell.ljust(w) for cell, w, r in zip(row, wide, right))
            lines.append("  ".join(padded).rstrip())
    return "\n".join(lines)


def markdown_row(cells: Iterable[Any]) -> str:
    """One row of a Markdown table."""
    return "| " + " | ".join(map(str, cells)) + " |"


def markdown(header: Sequence[str], rows: Iterable[Iterable[Any]] = ()) -> str:
    """A Markdown table.

    Args:
        header: of each column.
        rows: cells of each row.

    Returns:
        The table, without a line's end behind it.

    >>> print(markdown(["a", "b"], [[1, 2]]))
    | a | b |
    |---|---|
    | 1 | 2 |
    """
    return "\n".join([markdown_row(header), "|" + "---|" * len(header), *map(markdown_row, rows)])


def html(caption: str, rows: Iterable[Sequence[Any]], header: Sequence[str] = (), notes: Iterable[str] = ()) -> str:
    """A table for a notebook.

    Args:
        caption: stands above it.
        rows: cells of each row.
        header: of each column; none where it is left out.
        notes: lines below it.

    Returns:
        One HTML element; every text in it is escaped.

    >>> html("a < b", [["x", 1.5]])
    '<div><table><caption>a &lt; b</caption><tbody><tr><td>x</td><td>1.5</td></tr></tbody></table></div>'
    """
    def row(cells: Iterable[Any], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{escape(number(cell))}</{tag}>" for cell in cells) + "</tr>"

    head = f"<thead>{row(header, 'th')}</thead>" if header else ""
    body = "".join(row(cells, "td") for cells in rows)
    below = "".join(f"<p>{escape(note)}</p>" for note in notes)
    return f"<div><table><caption>{escape(caption)}</caption>{head}<tbody>{body}</tbody></table>{below}</div>"


def tree(found: dict[str, Any], indent: int = 0) -> str:
    """A nested dictionary, one ``key  value`` a line.

    Args:
        found: text keys; values are numbers, texts, lists or dictionaries.
        indent: spaces before each line.

    Returns:
        The lines.

    >>> print(tree({"cycles": 12.0, "terms": {"alpha": 0.5}}))
    cycles  12
    terms
      alpha  0.5
    """
    width = max((len(key) for key in found), default=0)
    lines = []
    for key, value in found.items():
        pad = " " * indent
        if isinstance(value, dict):
            lines += [pad + key] + ([tree(value, indent + 2)] if value else [])
        elif isinstance(value, list):
            lines += [f"{pad}{key.ljust(width)}  {item}" for item in value]
        else:
            lines.append(f"{pad}{key.ljust(width)}  {number(value)}")
    return "\n".join(lines)
