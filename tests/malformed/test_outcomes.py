"""What comes of every malformed input is what the table says: never a traceback, a hang, a crash, or a changed file."""

import pytest

from tests.malformed.inputs import entries
from tests.malformed.outcomes import TABLE, outcomes, table

pytestmark = pytest.mark.timeout(900)


def test_outcomes_are_those_of_the_table() -> None:
    found = outcomes()
    assert not {title: outcome.said for title, outcome in found.items() if outcome.word == "BUG"}
    assert len(entries()) >= 700
    assert table(found).splitlines() == TABLE.read_text(encoding="utf-8").splitlines()
