"""One input tried: an outcome, or a bug where an exception is no refusal, the words are a program's, or a file of the input has changed."""

from __future__ import annotations

import hashlib
import re
import stat
import traceback
from pathlib import Path

from ray_s2v.schema import UserError
from tests.malformed.entry import Entry, Outcome

GIVEN, OWN = "given", "own"  # the input's folder, which nobody may change, and beside it that of what reading it writes
MAX_SAID = 260
PROGRAMS = re.compile(r"Traceback|site-packages|lib/python|\.py[\"':]|object at 0x|errors\.pydantic")


def tried(entry: Entry, scratch: Path) -> Outcome:
    """What comes of an input made in an empty folder."""
    given = scratch / GIVEN
    given.mkdir()
    (scratch / OWN).mkdir()
    entry.make(given)
    before = contents(given)
    try:
        outcome = entry.read(given)
    except UserError as error:
        outcome = Outcome("refused", str(error))
    except Exception as error:  # noqa: BLE001 which is what is looked for
        where = traceback.extract_tb(error.__traceback__)[-1]
        return Outcome("BUG", f"{type(error).__name__}: {str(error)[:MAX_SAID]} ({Path(where.filename).name}:{where.lineno})")
    if contents(given) != before:
        return Outcome("BUG", "the input's folder has changed")
    said = " ".join(outcome.said.replace(str(scratch), "").split())
    said = re.sub(r"\d+ bytes were read", "so many bytes were read", said)  # of the process's own environment
    said = re.sub(r"/tmp/[A-Za-z0-9_.]+", "TMP", said).encode(errors="backslashreplace").decode()
    if PROGRAMS.search(said):
        return Outcome("BUG", f"a program's words: {said[:MAX_SAID]}")
    return Outcome(outcome.word, said if len(said) <= MAX_SAID else f"{said[:MAX_SAID]}...")


def contents(folder: Path) -> dict[str, tuple[int, int, str]]:
    """Kind and rights, time of change and digest of everything in a folder."""
    found = {}
    for path in sorted(folder.rglob("*")):
        info = path.lstat()
        is_read = stat.S_ISREG(info.st_mode) and info.st_size < 1 << 26
        found[str(path)] = info.st_mode, info.st_mtime_ns, hashlib.blake2b(path.read_bytes()).hexdigest() if is_read else str(info.st_size)
    return found
