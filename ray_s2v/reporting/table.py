"""Tables as plain text, and texts that must fit into them."""

from __future__ import annotations

WIDTH = 120  # characters of a line


def table(heads: list[str], rows: list[list[str]]) -> list[str]:
    """Columns as wide as their widest cell, the first to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(heads, *rows, strict=True)]
    return [
        "  ".join(cell.rjust(width) if number else cell.ljust(width) for number, (cell, width) in enumerate(zip(row, widths, strict=True)))
        for row in [heads, *rows]
    ]


def start_of(text: str, length: int) -> str:
    """The text, or as much of its beginning as `length` characters hold."""
    return text if len(text) <= length else f"{text[: length - 3]}..."


def end_of(text: str, length: int) -> str:
    """The text, or as much of its end as `length` characters hold."""
    return text if len(text) <= length else f"...{text[3 - length :]}"
