"""All malformed inputs, by their titles."""

from __future__ import annotations

from functools import cache
from itertools import chain

from tests.malformed import job_files, media, scenes, tars, weights
from tests.malformed.entry import Entry


@cache
def entries() -> dict[str, Entry]:
    listed = list(chain(job_files.entries(), media.entries(), tars.entries(), weights.entries(), scenes.entries()))
    found = {entry.title: entry for entry in listed}
    assert len(found) == len(listed), "two inputs of one title"
    return found
