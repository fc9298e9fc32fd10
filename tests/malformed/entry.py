"""An input that nobody should give, and what may come of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

Word = Literal["refused", "rejected", "passed over", "taken", "BUG"]


class Outcome(NamedTuple):
    """refused: the whole job, in words. rejected: a clip, listed with the reason. passed over: by a rule. taken: valid after all."""

    word: Word
    said: str = ""


@dataclass(frozen=True)
class Entry:
    """`make` puts the input into an empty folder; `read` takes it by the way that a user's own would go."""

    kind: str
    name: str
    make: Callable[[Path], object]
    read: Callable[[Path], Outcome]

    @property
    def title(self) -> str:
        return f"{self.kind}: {self.name}"
