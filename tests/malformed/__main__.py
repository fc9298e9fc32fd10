"""`python -m tests.malformed [WORDS]` writes outcomes.md, or says what comes of the inputs in whose titles the words are."""

from __future__ import annotations

import sys

from tests.malformed.inputs import entries
from tests.malformed.outcomes import TABLE, outcomes, table


def main(words: str) -> int:
    found = outcomes([title for title in entries() if words in title])
    if words:
        sys.stdout.write(table(found))
    else:
        TABLE.write_text(table(found), encoding="utf-8")
    bugs = [f"{title}: {outcome.said}" for title, outcome in found.items() if outcome.word == "BUG"]
    sys.stdout.write("\n".join([f"{len(found)} inputs, {len(bugs)} bugs", *bugs]) + "\n")
    return bool(bugs)


if __name__ == "__main__":
    sys.exit(main(" ".join(sys.argv[1:])))
