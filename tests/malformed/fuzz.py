"""`python -m tests.malformed.fuzz [--minutes 10] [--seed 0]`: good inputs with something changed, one after the other, in a child process.

Each input is made from its number alone, so that what is printed can be had again: `--seed NUMBER --minutes 0`.
"""

from __future__ import annotations

import argparse
import io
import random
import struct
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from safetensors.numpy import save

from ray_s2v.data.captions import read_captions
from ray_s2v.data.facts import examine
from ray_s2v.data.found import Found, Part
from ray_s2v.data.listing import file_at
from ray_s2v.data.tables import read_table
from ray_s2v.data.tars import members_of
from ray_s2v.job_file import dump_job, load_job
from ray_s2v.media.audio import read_audio
from ray_s2v.media.picture import centred
from ray_s2v.media.video import read_frames
from ray_s2v.model.checkpoint import stored_shapes
from ray_s2v.schema import ClipError, UserError
from ray_s2v.storage import member_of
from tests.jobs import SETTINGS
from tests.malformed.children import Child, Work
from tests.malformed.media import copied, wav
from tests.malformed.sources import clip_bytes
from tests.malformed.tars import clip_tar

BATCH = 20  # inputs that the child is given at a time
LIMIT_S = 120.0  # of a batch
NUMBERS = (b"\0", b"\xff", b"\x7f\xff\xff\xff", b"\xff\xff\xff\xff", b"\x80\0\0\0", b"\0\0\0\0", b"\0\0\0\1", b"\xff" * 8)
WORDS = (b"&a ", b"*a", b"<<: ", b"!!python/object ", b"!!int ", b"{", b"[", b"]", b"}", b"-", b": ", b"\n  ", b'"', b"'", b"~", b".nan", b".inf", b"1e999", b"\xff")  # fmt: skip


def _job(path: Path) -> None:
    job = load_job(str(path))
    again = path.with_name("again.yaml")
    again.write_text(dump_job(job), encoding="utf-8")
    assert load_job(str(again)) == job, "another job after it was written down"


def _clip(path: Path) -> None:
    part = _part(path)
    facts = examine(Found("x", part, part, None, None, ("a",)))
    if facts.video:
        last = max(facts.video.num_frames - 1, 0)
        read_frames(str(path), [0, last // 2, last], centred(facts.video.width, facts.video.height, 64, 64))
        if facts.sound:
            read_audio(str(path), str(path), last // 2, 4)


def _sound(path: Path) -> None:
    read_audio(str(path), "", 4, 4)


def _tar(path: Path) -> None:
    members, _ = members_of(_part(path))
    for part in members.values():
        assert member_of(part.place)


def _table(path: Path) -> None:
    read_table(str(path))


def _caption(path: Path) -> None:
    read_captions(_part(path))


def _weights(path: Path) -> None:
    stored_shapes([path])


def _part(path: Path) -> Part:
    part = file_at(str(path))
    assert part
    return part


@cache
def good() -> list[tuple[str, bytes, Callable[[Path], None]]]:
    """Name, content and reader of what is changed."""
    table = io.BytesIO()
    pq.write_table(pa.table({"video": ["x.mp4", "y.mp4"], "caption": ["a", "b"]}), table)
    small = clip_bytes(num_frames=6)
    return [
        ("job.yaml", yaml.safe_dump(SETTINGS).encode(), _job),
        ("x.mp4", small, _clip),
        ("x.mkv", copied(".mkv"), _clip),
        ("x.wav", wav()[:4000], _sound),
        ("x.m4a", copied(".m4a", "a"), _sound),
        ("x.tar", clip_tar()[-4096 - 8192 :], _tar),
        ("x.csv", b"video,audio,caption\nx.mp4,,a face\ny.mp4,y.wav,'b'\n", _table),
        ("x.parquet", table.getvalue(), _table),
        ("x.txt", "a face\nein größeres Gesicht\n说话的人\n".encode(), _caption),
        ("x.json", b'{"caption": ["a face", "\\u00e4"], "more": {"a": [1, 2.5, null]}}', _caption),
        ("x.safetensors", save({name: np.zeros((2, 3), np.float32) for name in "ab"}), _weights),
    ]


def changed(content: bytes, draws: random.Random) -> bytes:
    """The bytes with up to eight changes of a few kinds."""
    data = bytearray(content)
    header = len(data) if draws.random() < 0.5 else min(len(data), 2048)
    for _ in range(draws.randint(1, 8)):
        at = draws.randrange(header) if data else 0
        match draws.randrange(7):
            case 0:
                data[at : at + 1] = bytes([draws.randrange(256)])
            case 1:
                number = draws.choice(NUMBERS)
                data[at : at + len(number)] = number
            case 2:
                data[at:at] = draws.choice(WORDS)
            case 3:
                del data[at : at + draws.choice([1, 2, 4, 16, 300])]
            case 4:
                data[at:at] = data[at : at + draws.choice([4, 16, 300])] * draws.choice([1, 2, 50])
            case 5:
                data[at : at + 4] = struct.pack(">I", draws.getrandbits(draws.randint(1, 32)))
            case 6:
                if draws.random() < 0.3:
                    del data[at:]
    return bytes(data)


def _tried(number: int, folder: Path) -> str:
    """What came of an input; begins with BUG where that is none of what may be."""
    draws = random.Random(number)
    name, content, read = good()[number % len(good())]
    path = folder / name
    path.write_bytes(changed(content, draws))
    try:
        read(path)
    except (UserError, ClipError, OSError) as error:
        return f"{name}: {type(error).__name__}"
    except Exception as error:  # noqa: BLE001 which is what is looked for
        where = traceback.extract_tb(error.__traceback__)[-1]
        return f"BUG {number}: {name}: {type(error).__name__}: {str(error)[:200]} ({Path(where.filename).name}:{where.lineno})"
    return f"{name}: taken"


def _batch(numbers: list[int], folder: Path) -> list[str]:
    return [_tried(number, folder) for number in numbers]


def _trying() -> Work:
    good()
    return _batch


def tried(first: int, minutes: float) -> Iterator[str]:
    """What came of one input after the other."""
    child, end, number = Child(_trying), time.monotonic() + 60 * minutes, first
    try:
        while number == first or time.monotonic() < end:
            numbers = list(range(number, number + (BATCH if minutes else 1)))
            number += len(numbers)
            try:
                yield from child.ask(numbers, LIMIT_S)
            except (TimeoutError, ChildProcessError) as died:
                yield from _one_by_one(child, numbers, died)
    finally:
        child.end()


def _one_by_one(child: Child, numbers: list[int], died: Exception) -> Iterator[str]:
    """Which of them it was."""
    for number in numbers:
        try:
            yield from child.ask([number], LIMIT_S)
        except (TimeoutError, ChildProcessError) as end:
            yield f"BUG {number}: {good()[number % len(good())][0]}: {end} ({died})"


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=0, help="the first input's number")
    options = parser.parse_args()
    counts: Counter[str] = Counter()
    for outcome in tried(options.seed, options.minutes):
        if outcome.startswith("BUG"):
            sys.stdout.write(outcome + "\n")
            sys.stdout.flush()
        counts["BUG" if outcome.startswith("BUG") else outcome] += 1
    lines = [f"{count:8} {outcome}" for outcome, count in sorted(counts.items())]
    sys.stdout.write("\n".join([*lines, f"{counts.total()} inputs, {counts['BUG']} bugs"]) + "\n")
    return bool(counts["BUG"])


if __name__ == "__main__":
    sys.exit(main())
