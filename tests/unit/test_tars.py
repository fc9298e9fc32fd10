"""WebDataset shards: what is found in them, where, and what is refused. Contents are read by `tar` for comparison, never by us."""

import bz2
import gzip
import io
import lzma
import subprocess
import tarfile
from pathlib import Path

import pytest

from ray_s2v.data.found import Part, Rejected
from ray_s2v.data.sources import find
from ray_s2v.data.tars import members_of
from ray_s2v.schema import DataError
from ray_s2v.storage import open_file
from tests.clips import source, write_tar


def part(path: Path) -> Part:
    return Part(str(path), path.stat().st_size, path.stat().st_mtime_ns)


def header(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info


def test_members_are_found_and_hold_what_tar_says(tmp_path: Path) -> None:
    """Names longer than a header, from other formats, empty files: made and read by GNU tar."""
    names = ["a.mp4", "a.txt", "deep/er/b.mp4", "other.tar#0+9/b.mp4", f"{'long/' * 40}{'x' * 90}.mp4", "é 顔.mp4", "empty.txt"]
    for name in names:
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).write_bytes(b"" if name == "empty.txt" else f"content of {name}".encode() * 100)
    for form in ("gnu", "posix"):
        tar = tmp_path / f"{form}.tar"
        subprocess.run(["tar", f"--format={form}", "-C", tmp_path / "in", "-cf", tar, "."], check=True)
        members, rejected = members_of(part(tar))
        assert rejected == []
        assert sorted(members) == sorted(names)
        for name, member in members.items():
            told = subprocess.run(["tar", "-xOf", tar, f"./{name}"], check=True, capture_output=True).stdout
            with open_file(member.place) as file:
                assert file.read() == told
            assert (member.size, member.stamp) == (len(told), tar.stat().st_mtime_ns)


def test_members_are_grouped_by_stem_up_to_the_last_dot(tmp_path: Path) -> None:
    names = ["clip.v2.mp4", "clip.mp4", "clip.txt", "clip.v2.txt", "clip.v2.wav", "a/clip.txt", "a/clip.MP4", "other.txt"]
    write_tar(tmp_path / "s.tar", [(name, name.encode()) for name in names])
    found, rejected = find(source(tmp_path / "s.tar"))
    assert rejected == []
    shown = {clip.name: [read(part) for part in (clip.video, clip.audio, clip.caption) if part] for clip in found}
    assert shown == {
        "a/clip.MP4": ["a/clip.MP4", "a/clip.MP4", "a/clip.txt"],
        "clip.mp4": ["clip.mp4", "clip.mp4", "clip.txt"],
        "clip.v2.mp4": ["clip.v2.mp4", "clip.v2.wav", "clip.v2.txt"],
    }
    assert [clip.name for clip in found] == sorted(shown)


def read(part: Part) -> str:
    with open_file(part.place) as file:
        return file.read().decode()


def test_two_videos_of_a_stem_are_two_clips(tmp_path: Path) -> None:
    """As they are in a folder."""
    names = ["a.mp4", "a.mov", "a.txt"]
    write_tar(tmp_path / "s.tar", [(name, name.encode()) for name in names])
    assert [clip.name for clip in find(source(tmp_path / "s.tar"))[0]] == ["a.mov", "a.mp4"]


def test_caption_is_the_text_or_with_column_the_json(tmp_path: Path) -> None:
    names = ["a.mp4", "a.txt", "a.json", "b.mp4", "b.txt", "c.mp4", "c.json"]
    write_tar(tmp_path / "s.tar", [(name, name.encode()) for name in names])
    for caption, taken, lost in ((None, ["a.txt", "b.txt"], "c.txt"), ("column", ["a.json", "c.json"], "b.json")):
        found, rejected = find(source(tmp_path / "s.tar", caption=caption))
        assert [read(clip.caption) for clip in found if clip.caption] == taken
        assert rejected == [Rejected(f"{tmp_path}/s.tar/{lost[0]}.mp4", f"no caption: {lost} is not there")]


def test_names_are_the_members_unless_two_shards_hold_the_same(tmp_path: Path) -> None:
    for shard, names in (("s0", ["a", "b"]), ("more/s1", ["c"])):
        write_tar(tmp_path / f"{shard}.tar", [(f"{name}{suffix}", b"x") for name in names for suffix in (".mp4", ".txt")])
    assert [clip.name for clip in find(source(tmp_path))[0]] == ["a.mp4", "b.mp4", "c.mp4"]
    write_tar(tmp_path / "s2.tar", [("c.mp4", b"x"), ("c.txt", b"x")])
    found, rejected = find(source(tmp_path))
    assert [clip.name for clip in found] == ["more/s1.tar/c.mp4", "s0.tar/a.mp4", "s0.tar/b.mp4", "s2.tar/c.mp4"]
    assert rejected == []


def test_same_text_in_two_shards_is_no_reason_for_longer_names(tmp_path: Path) -> None:
    for shard, name in (("s0", "a"), ("s1", "b")):
        write_tar(tmp_path / f"{shard}.tar", [(f"{name}.mp4", b"x"), (f"{name}.txt", b"x"), ("readme.txt", b"x")])
    assert [clip.name for clip in find(source(tmp_path))[0]] == ["a.mp4", "b.mp4"]


def test_folder_with_tars_and_videos_gives_both(tmp_path: Path) -> None:
    write_tar(tmp_path / "s.tar", [("a.mp4", b"x"), ("a.txt", b"x")])
    for name in ("b.mp4", "b.txt"):
        (tmp_path / name).write_text("x")
    assert [clip.name for clip in find(source(tmp_path))[0]] == ["a.mp4", "b.mp4"]
    for name in ("a.mp4", "a.txt"):
        (tmp_path / name).write_text("x")
    assert [clip.name for clip in find(source(tmp_path))[0]] == ["a.mp4", "b.mp4", "s.tar/a.mp4"]


@pytest.mark.parametrize("name", ["../x.mp4", "/x.mp4", "a/../../x.mp4", ".."])
def test_path_that_leads_out_is_refused(tmp_path: Path, name: str) -> None:
    write_tar(tmp_path / "s.tar", [(name, b"x"), ("a.mp4", b"x"), ("a.txt", b"x")])
    found, rejected = find(source(tmp_path / "s.tar"))
    assert [clip.name for clip in found] == ["a.mp4"]
    assert rejected == [Rejected(f"{tmp_path}/s.tar/{name}", "its path leads out of the tar")]
    assert list(tmp_path.iterdir()) == [tmp_path / "s.tar"]


@pytest.mark.parametrize(
    ("info", "reason"),
    [
        (header("x.mp4", tarfile.SYMTYPE, "a.mp4"), "a link"),
        (header("x.mp4", tarfile.SYMTYPE, "/etc/passwd"), "a link"),
        (header("x.mp4", tarfile.LNKTYPE, "a.mp4"), "a link"),
        (header("x.mp4", tarfile.CHRTYPE), "not a file"),
        (header("x.mp4", tarfile.FIFOTYPE), "not a file"),
    ],
)
def test_what_is_no_plain_file_is_refused(tmp_path: Path, info: tarfile.TarInfo, reason: str) -> None:
    write_tar(tmp_path / "s.tar", [("a.mp4", b"x"), (info, b""), ("a.txt", b"x")])
    found, rejected = find(source(tmp_path / "s.tar"))
    assert [clip.name for clip in found] == ["a.mp4"]
    assert rejected == [Rejected(f"{tmp_path}/s.tar/{info.name}", reason)]


@pytest.mark.parametrize("form", ["gnu", "posix"])
def test_sparse_member_is_refused(tmp_path: Path, form: str) -> None:
    with open(tmp_path / "x.mp4", "wb") as file:
        file.seek(1 << 20)
        file.write(b"end")
    subprocess.run(["tar", f"--format={form}", "-C", tmp_path, "--sparse", "-cf", tmp_path / "s.tar", "x.mp4"], check=True)
    assert (tmp_path / "s.tar").stat().st_size < 1 << 20
    found, rejected = find(source(tmp_path / "s.tar"))
    assert (found, rejected) == ([], [Rejected(f"{tmp_path}/s.tar/x.mp4", "a sparse file")])


def test_hidden_members_and_folders_are_left_out(tmp_path: Path) -> None:
    """macOS' tar adds ._x.mp4."""
    names = ["./a.mp4", "./a.txt", "._a.mp4", "b/._c.mp4", ".hidden/d.mp4"]
    write_tar(tmp_path / "s.tar", [(header("folder.mp4", tarfile.DIRTYPE), b""), *((name, b"x") for name in names)])
    found, rejected = find(source(tmp_path / "s.tar"))
    assert ([clip.name for clip in found], rejected) == (["a.mp4"], [])


def test_name_that_is_not_utf8_is_refused_readably(tmp_path: Path) -> None:
    write_tar(tmp_path / "s.tar", [("caf\udce9.mp4", b"x")])
    found, rejected = find(source(tmp_path / "s.tar"))
    assert (found, rejected) == ([], [Rejected(f"{tmp_path}/s.tar/caf\\xe9.mp4", "its name is not UTF-8")])


def test_later_member_of_a_name_stands_for_it(tmp_path: Path) -> None:
    """As tar itself takes an archive that was appended to."""
    write_tar(tmp_path / "s.tar", [("a.mp4", b"old"), ("a.txt", b"x"), ("a.mp4", b"new")])
    found, rejected = find(source(tmp_path / "s.tar"))
    assert [read(clip.video) for clip in found] == ["new"]
    assert rejected == [Rejected(f"{tmp_path}/s.tar/a.mp4", "the tar holds a later file of this name")]


@pytest.mark.parametrize(("compress", "name"), [(gzip.compress, "gzip"), (bz2.compress, "bzip2"), (lzma.compress, "xz")])
def test_compressed_tar_is_refused(tmp_path: Path, compress: object, name: str) -> None:
    write_tar(tmp_path / "plain.tar", [("a.mp4", b"x"), ("a.txt", b"x")])
    (tmp_path / "s.tar").write_bytes(compress((tmp_path / "plain.tar").read_bytes()))  # type: ignore[operator]
    reason = f"damaged: compressed by {name}; members are read where they lie, so make it a plain tar"
    assert find(source(tmp_path / "s.tar")) == ([], [Rejected(f"{tmp_path}/s.tar", reason)])


@pytest.mark.parametrize("content", [b"", b"no tar", b"no tar" * 200])
def test_what_is_no_tar_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "s.tar").write_bytes(content)
    found, (rejected,) = find(source(tmp_path / "s.tar"))
    assert found == []
    assert rejected.path == f"{tmp_path}/s.tar"


def test_of_a_tar_cut_off_anywhere_only_what_is_whole_is_found(tmp_path: Path) -> None:
    """Every cut before the end is told; no member is given of which a byte is missing."""
    whole = io.BytesIO()
    with tarfile.open(fileobj=whole, mode="w") as tar:
        for name in ("a.mp4", "b.mp4", "c.mp4"):
            info = tarfile.TarInfo(name)
            info.size = 700
            tar.addfile(info, io.BytesIO(b"x" * 700))
    ends = {"a.mp4": 512 + 700, "b.mp4": 512 + 1024 + 512 + 700, "c.mp4": 2 * (512 + 1024) + 512 + 700}
    marker = 3 * (512 + 1024)
    for cut in [1, 511, 512, 1211, 1212, 1213, 1535, 1536, 1537, 2048, 2500, 2748, 3072, 4284, marker - 1, marker, marker + 511]:
        (tmp_path / "s.tar").write_bytes(whole.getvalue()[:cut])
        members, rejected = members_of(part(tmp_path / "s.tar"))
        assert list(members) == [name for name, end in ends.items() if end <= cut], cut
        assert [r.path for r in rejected] == [f"{tmp_path}/s.tar"], cut
    (tmp_path / "s.tar").write_bytes(whole.getvalue()[: marker + 512])
    members, rejected = members_of(part(tmp_path / "s.tar"))
    assert (list(members), rejected) == (list(ends), [])


def test_damaged_header_does_not_pass_for_the_end(tmp_path: Path) -> None:
    write_tar(tmp_path / "s.tar", [("a.mp4", b"x"), ("b.mp4", b"x"), ("c.mp4", b"x")])
    content = bytearray((tmp_path / "s.tar").read_bytes())
    content[1024 + 3] ^= 1
    (tmp_path / "s.tar").write_bytes(content)
    members, rejected = members_of(part(tmp_path / "s.tar"))
    assert list(members) == ["a.mp4"]
    assert rejected == [Rejected(f"{tmp_path}/s.tar", "damaged: no header at byte 1024")]


def test_broken_shard_takes_nothing_from_the_others(tmp_path: Path) -> None:
    write_tar(tmp_path / "s0.tar", [("a.mp4", b"x"), ("a.txt", b"x")])
    (tmp_path / "s1.tar").write_bytes(b"no tar")
    found, rejected = find(source(tmp_path))
    assert [clip.name for clip in found] == ["a.mp4"]
    assert [r.path for r in rejected] == [f"{tmp_path}/s1.tar"]


def test_tar_that_cannot_be_read_stops_with_its_name(tmp_path: Path) -> None:
    (tmp_path / "s.tar").symlink_to("/proc/self/mem")  # reading it fails as a broken disk does
    with pytest.raises(DataError, match=r"s\.tar cannot be read: .*Input/output error"):
        find(source(tmp_path))
