"""What comes of every malformed input, and the table of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path

from tests.malformed.attempt import tried
from tests.malformed.children import Work, answers
from tests.malformed.entry import Outcome
from tests.malformed.inputs import entries

TABLE = Path(__file__).with_name("outcomes.md")
LIMIT_S = 60.0  # of a machine with other work, too


def outcomes(titles: Iterable[str] | None = None, processes: int = 2) -> dict[str, Outcome]:
    """By title. Children that hang or die are bugs as well."""
    found = answers(_trying, list(titles or entries()), LIMIT_S, processes)
    return {title: answer if isinstance(answer, Outcome) else Outcome("BUG", str(answer)) for title, answer in found}


def table(found: Mapping[str, Outcome]) -> str:
    """As Markdown, by kind and name."""
    counts = Counter(outcome.word for outcome in found.values())
    lines = [
        "# What comes of malformed inputs",
        "",
        f"{len(found)} inputs: {', '.join(f'{count} {word}' for word, count in sorted(counts.items()))}. "
        "Made by `python -m tests.malformed`.",
        "",
        "| kind | input | outcome | in words |",
        "|---|---|---|---|",
    ]
    for title in sorted(found):
        kind, _, name = title.partition(": ")
        lines.append(f"| {kind} | {name} | {found[title].word} | {_cell(found[title].said)} |")
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    return "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text).replace("|", "\\|")


def _try(title: str, scratch: Path) -> Outcome:
    return tried(entries()[title], scratch)


def _trying() -> Work:
    entries()
    return partial(_try)
