"""Shards and manifests."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import random
import tarfile
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tests.malformed.entry import Entry
from tests.malformed.sources import clip_bytes, put_good, read_source
from tests.malformed.special import IN_PLACE_OF_A_FILE


def _tar(*members: tuple[tarfile.TarInfo | str, bytes], form: int = tarfile.PAX_FORMAT) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=form) as tar:
        for member, content in (("good.mp4", clip_bytes(seed=99)), ("good.txt", b"a good clip"), *members):
            info = member if isinstance(member, tarfile.TarInfo) else tarfile.TarInfo(member)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return file.getvalue()


@cache
def clip_tar() -> bytes:
    return _tar(("x.mp4", clip_bytes()), ("x.txt", b"a caption"))


def _named(name: str) -> bytes:
    return _tar((name, clip_bytes()), (name.replace(".mp4", ".txt"), b"a caption"))


def _kind(kind: bytes, target: str = "") -> bytes:
    info = tarfile.TarInfo("x.mp4")
    info.type, info.linkname = kind, target
    return _tar((info, b""), ("x.txt", b"a caption"))


def _header(place: int, new: bytes, checked: bool = True) -> bytes:
    """The tar of a clip with other bytes in the header of x.mp4, its checksum right or not."""
    content = bytearray(clip_tar())
    at = content.index(b"x.mp4\0")
    content[at + place : at + place + len(new)] = new
    if checked:
        content[at + 148 : at + 156] = b" " * 8
        content[at + 148 : at + 156] = b"%06o\0 " % sum(content[at : at + 512])
    return bytes(content)


def _flipped(content: bytes, seed: int) -> bytes:
    draws, changed = random.Random(seed), bytearray(content)
    for _ in range(8):
        block = draws.randrange(len(changed) // 512) * 512
        changed[block + draws.randrange(512)] = draws.randrange(256)
    return bytes(changed)


def _pax(**headers: str) -> bytes:
    info = tarfile.TarInfo("x.mp4")
    info.pax_headers = headers
    return _tar((info, clip_bytes()), ("x.txt", b"a caption"))


TARS: dict[str, Callable[[], bytes]] = {
    "empty": lambda: b"", "zeros": lambda: bytes(10_240), "one block of zeros": lambda: bytes(512), "noise": lambda: random.Random(0).randbytes(9999),
    "text": lambda: b"no tar\n" * 1000, "without its end": lambda: clip_tar().rstrip(b"\0"), "a gzip": lambda: gzip.compress(clip_tar()),
    "a bzip2": lambda: bz2.compress(clip_tar()), "an xz": lambda: lzma.compress(clip_tar()), "a zip": lambda: b"PK\x03\x04" + bytes(5000),
    "a tar in a tar": lambda: _tar(("x.tar", clip_tar())), "a video": clip_bytes, "two tars": lambda: clip_tar() + clip_tar(),
    "an absolute path": lambda: _named("/etc/x.mp4"), "a path that climbs out": lambda: _named("../../x.mp4"),
    "a path that climbs out inside": lambda: _named("a/../../x.mp4"), "a path of dots": lambda: _named("./a/./x.mp4"),
    "a name of control characters": lambda: _named("x\n\x1b[31m.mp4"), "a name of 5000 letters": lambda: _named("x" * 5000 + ".mp4"),
    "a name that is not UTF-8": lambda: _named("\udcff.mp4"), "an empty name": lambda: _tar(("", b"x")), "a hidden name": lambda: _named(".x.mp4"),
    "a name with another's position": lambda: _named("y.tar#0+10/x.mp4"), "the same name twice": lambda: _tar(*[("x.mp4", clip_bytes())] * 2, ("x.txt", b"a")),
    "two clips of one stem": lambda: _tar(("x.mp4", clip_bytes()), ("x.mkv", clip_bytes(seed=5)), ("x.txt", b"a")),
    "a link": lambda: _kind(tarfile.SYMTYPE, "/etc/passwd"), "a link that climbs out": lambda: _kind(tarfile.SYMTYPE, "../../good.mp4"),
    "a hard link": lambda: _kind(tarfile.LNKTYPE, "/etc/passwd"), "a device of letters": lambda: _kind(tarfile.CHRTYPE),
    "a device of blocks": lambda: _kind(tarfile.BLKTYPE), "a pipe": lambda: _kind(tarfile.FIFOTYPE), "an unknown kind": lambda: _kind(b"Z"),
    "a folder called x.mp4": lambda: _kind(tarfile.DIRTYPE), "a sparse file": lambda: _kind(tarfile.GNUTYPE_SPARSE),
    "a wrong checksum": lambda: _header(148, b"0000000\0", checked=False), "a size of 8 GiB": lambda: _header(124, b"77777777777\0"),
    "a size beyond all": lambda: _header(124, b"\x80" + b"\xff" * 11), "a size below zero": lambda: _header(124, b"\xff" * 12),
    "a size that is no number": lambda: _header(124, b"many bytes!\0"), "a time that is no number": lambda: _header(136, b"yesterday!!\0"),
    "a mode that is no number": lambda: _header(100, b"rwxrwxr\0"), "a size of nothing": lambda: _header(124, b"00000000000\0"),
    "a size less than it is": lambda: _header(124, b"00000000100\0"), "a size in the long header beyond all": lambda: _pax(size="9" * 30),
    "a size in the long header below zero": lambda: _pax(size="-512"), "a size in the long header that is no number": lambda: _pax(size="x"),
    "a path in the long header that climbs out": lambda: _pax(path="../../x.mp4"), "a path in the long header of nulls": lambda: _pax(path="a\0b.mp4"),
    "a time in the long header that is none": lambda: _pax(mtime="nan"), "a sparse map in the long header": lambda: _pax(**{"GNU.sparse.map": "x,y,z"}),
    "a sparse size in the long header": lambda: _pax(**{"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": "9" * 30}),
    "a long header of a codec that is none": lambda: _pax(hdrcharset="x"), "a caption of 2 MiB": lambda: _tar(("x.mp4", clip_bytes()), ("x.txt", b"x" * (2 << 20))),
    "a caption of JSON 5000 deep": lambda: _tar(("x.mp4", clip_bytes()), ("x.json", b'{"caption":' + b"[" * 5000)),
    "half of it": lambda: clip_tar()[: len(clip_tar()) // 2], "cut in the first header": lambda: clip_tar()[:300], "cut by one byte in a member": lambda: clip_tar()[: clip_tar().index(b"x.mp4\0") + 512 + len(clip_bytes()) - 1],
    "two thousand members": lambda: _tar(*[(f"{n}.doc", b"") for n in range(2_000)], form=tarfile.USTAR_FORMAT),
}  # fmt: skip
JSON = {
    "that is none": b"{caption", "without a caption": b"{}", "that is a list": b"[]", "of a number": b'{"caption": 3}', "of null": b'{"caption": null}',
    "of a list of numbers": b'{"caption": [1]}', "of no captions": b'{"caption": []}', "of half a character": b'{"caption": "\\ud800"}',
    "of a number without end": b'{"caption": ' + b"9" * 5000 + b"}", "of no number": b'{"caption": NaN}', "twice": b'{"caption": "a", "caption": "b"}',
}  # fmt: skip
CSVS = {
    "empty": b"", "of a header alone": b"video,caption\n", "without a column video": b"path,caption\nx.mp4,a\n", "two columns video": b"video,video,caption\nx.mp4,x.mp4,a\n",
    "a value too many": b"video,caption\nx.mp4,a,b\n", "a value too few": b"video,caption\nx.mp4\n", "a quote open": b'video,caption\nx.mp4,"a\n',
    "a null": b"video,caption\nx\0.mp4,a\n", "not UTF-8": b"video,caption\nx.mp4,gr\xf6\xdfe\n", "in UTF-16": "video,caption\nx.mp4,a\n".encode("utf-16"),
    "by semicolons": b"video;caption\nx.mp4;a\n", "a path that climbs out": b"video,caption\n../x.mp4,a\n", "/etc/passwd": b"video,caption\n/etc/passwd,a\n",
    "a path of another user": b"video,caption\n~nobody/x.mp4,a\n", "an address that cannot be read": b"video,caption\nhttp://127.0.0.1:9/x.mp4,a\n",
    "a file that is not there": b"video,caption\ngone.mp4,a\n", "a folder": b"video,caption\nd,a\n", "a pipe": b"video,caption\npipe.mp4,a\n",
    "an empty cell": b"video,caption\n,a\n", "no caption": b"video,caption\nx.mp4,\n", "the same clip twice": b"video,caption\nx.mp4,a\nx.mp4,b\n",
    "a field of 200 kB": b"video,caption\nx.mp4," + b"x" * 200_000 + b"\n", "a path of 5000 letters": b"video,caption\n" + b"x" * 5000 + b",a\n",
    "a member of a tar beyond its end": b"video,caption\na.tar#99999999999+9/x.mp4,a\n", "a sound that is not there": b"video,audio,caption\nx.mp4,gone.wav,a\n",
    "a formula": b"video,caption\nx.mp4,=cmd|'/c calc'!A0\n", "carriage returns alone": b"video,caption\rx.mp4,a\r", "control characters": b"video,caption\nx.mp4,\x1b[31ma\n",
    "a file of the process": b"video,caption\n/proc/self/environ,a\n", "a device": b"video,caption\n/dev/zero,a\n",
}  # fmt: skip


def _parquet(table: pa.Table, **options: Any) -> bytes:
    file = io.BytesIO()
    pq.write_table(table, file, **options)
    return file.getvalue()


def _columns(**columns: Any) -> bytes:
    return _parquet(pa.table(columns))


PARQUETS: dict[str, Callable[[], bytes]] = {
    "empty": lambda: b"", "text": lambda: b"video,caption\nx.mp4,a\n", "its mark alone": lambda: b"PAR1PAR1", "noise between its marks": lambda: b"PAR1" + random.Random(0).randbytes(500) + b"PAR1",
    "half of it": lambda: _columns(video=["x.mp4"], caption=["a"])[:200], "a footer beyond all": lambda: b"PAR1" + bytes(20) + b"\xff\xff\xff\x7fPAR1",
    "numbers as videos": lambda: _columns(video=[1], caption=["a"]), "bytes as videos": lambda: _columns(video=[b"x.mp4"], caption=["a"]), "no rows": lambda: _parquet(pa.table({"video": pa.array([], pa.string()), "caption": pa.array([], pa.string())})),
    "nothing in its cells": lambda: _columns(video=[None], caption=[None]), "no column video": lambda: _columns(path=["x.mp4"]), "no columns": lambda: _parquet(pa.table({})),
    "a list of lists of captions": lambda: _columns(video=["x.mp4"], caption=[[["a"]]]), "strings that are not UTF-8": lambda: _parquet(pa.table({"video": pa.Array.from_buffers(pa.string(), 1, [None, pa.py_buffer(b"\0\0\0\0\x02\0\0\0"), pa.py_buffer(b"\xff\xfe")]), "caption": pa.array(["a"])})),
    "a null in a name": lambda: _columns(video=["x\0.mp4"], caption=["a"]), "a path that climbs out": lambda: _columns(video=["../x.mp4"], caption=["a"]),
    "a pickle beside": lambda: _parquet(pa.table({"video": ["x.mp4"], "caption": ["a"]}).replace_schema_metadata({b"pandas": b"{", b"ARROW:extension:metadata": b"cos\nsystem\n(S'touch RAN'\ntR."})),
    **{f"bytes changed {seed}": lambda seed=seed: _changed(seed) for seed in range(10)},  # type: ignore[misc]
}  # fmt: skip


def _changed(seed: int) -> bytes:
    content, draws = bytearray(_columns(video=["x.mp4", "good.mp4"], caption=["a", "b"])), random.Random(seed)
    for _ in range(6):
        content[draws.randrange(4, len(content) - 8)] = draws.randrange(256)
    return bytes(content)


def _put_tar(folder: Path, content: Callable[[], bytes]) -> None:
    (folder / "x.tar").write_bytes(content())


def _put_table(folder: Path, name: str, content: Callable[[], bytes]) -> None:
    put_good(folder)
    (folder / "x.mp4").write_bytes(clip_bytes())
    (folder / "d").mkdir()
    IN_PLACE_OF_A_FILE["a pipe that nobody writes to"](folder / "pipe.mp4")
    (folder / name).write_bytes(content())


def entries() -> Iterator[Entry]:
    for title, content in TARS.items():
        yield Entry("tar", title, partial(_put_tar, content=content), partial(read_source, at="x.tar"))
    for seed in range(12):
        yield Entry(
            "tar", f"bytes changed {seed}", partial(_put_tar, content=partial(_changed_tar, seed)), partial(read_source, at="x.tar")
        )
    for title, words in JSON.items():
        make = partial(_put_tar, content=partial(_tar, ("x.mp4", b""), ("x.json", words)))
        yield Entry("caption", f"of JSON {title}", make, partial(read_source, at="x.tar", caption="column"))
    for title, lines in CSVS.items():
        yield Entry("csv", title, partial(_put_table, name="x.csv", content=lambda lines=lines: lines), partial(read_source, at="x.csv"))  # type: ignore[misc]
    for title, content in PARQUETS.items():
        yield Entry("parquet", title, partial(_put_table, name="x.parquet", content=content), partial(read_source, at="x.parquet"))
    for title, maker in IN_PLACE_OF_A_FILE.items():
        for name in ("x.tar", "x.csv", "x.parquet"):
            if not (title.startswith("64 GiB") and name != "x.tar"):
                yield Entry(
                    name[2:], f"it is {title}", lambda folder, maker=maker, name=name: maker(folder / name), partial(read_source, at=name)
                )  # type: ignore[misc]


def _changed_tar(seed: int) -> bytes:
    return _flipped(clip_tar(), seed)
