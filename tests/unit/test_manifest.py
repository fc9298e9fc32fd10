"""The file that keeps what was found out: all of it comes back, and a file that is not ours is left aside."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from ray_s2v.data.facts import Facts
from ray_s2v.data.found import Found, Part
from ray_s2v.data.manifest import ROW_SCHEMA, Row, manifest_place, read_manifest, write_manifest
from ray_s2v.media.audio import SoundFacts
from ray_s2v.media.probe import VideoFacts
from ray_s2v.schema import DataError


def part(name: str) -> Part:
    return Part(f"s3://bucket/é 顔/{name}", 3 << 40, 1_700_000_000_123_456_789)


def rows() -> list[Row]:
    """Everything there, everything blank, and what lies between."""
    video = VideoFacts(832, 480, 96, 6.0 + 1e-12, True)
    sound = SoundFacts(-0.0213, 5.98, 0.7)
    return [
        (
            Found("a.mp4", part("a.mp4"), part("a.wav"), part("p.mp4"), part("a.txt"), None),
            Facts("", video, sound, "", ("one", "zwei 顔 🙂"), "12", "34", "56"),
        ),
        (Found("b.mp4", part("b.mp4"), None, None, None, None), Facts("the file is empty")),
        (
            Found("c\n.mp4", Part("/c", 0, 0), Part("/c", 0, 0), None, None, None),
            Facts("", video._replace(has_audio=False), None, "no audio stream", (), "12", "12", ""),
        ),
        (
            Found("d", Part("/d", 0, -1), Part("/d", 0, -1), None, None, None),
            Facts("", video, SoundFacts(0.0, 0.0, 0.0), "the sound is silent"),
        ),
    ]


@pytest.fixture
def notes() -> list[str]:
    return []


def test_rows_come_back_as_they_were(tmp_path: Path, notes: list[str]) -> None:
    for written in (rows(), rows()[:1], []):
        write_manifest(str(tmp_path / "store"), "faces", written)
        known = read_manifest(str(tmp_path / "store"), "faces", notes.append)
        assert known == {found.name: (found, facts) for found, facts in written}
    assert [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.*")] == ["store/manifest/faces.parquet"]
    assert notes == []


def test_every_source_has_its_own(tmp_path: Path, notes: list[str]) -> None:
    write_manifest(str(tmp_path), "faces", rows()[:1])
    write_manifest(str(tmp_path), "more faces", rows()[1:])
    assert list(read_manifest(str(tmp_path), "faces", notes.append)) == ["a.mp4"]
    assert len(read_manifest(str(tmp_path), "more faces", notes.append)) == 3
    assert read_manifest(str(tmp_path), "others", notes.append) == {}
    assert notes == []


def test_words_are_not_kept(tmp_path: Path, notes: list[str]) -> None:
    """They are the listing's, and may change without a file."""
    found, facts = rows()[1]
    write_manifest(str(tmp_path), "faces", [(found._replace(words=("a face",)), facts)])
    assert read_manifest(str(tmp_path), "faces", notes.append) == {"b.mp4": (found, facts)}


@pytest.mark.parametrize("damage", ["empty", "text", "half", "flipped", "folder"])
def test_damaged_manifest_is_left_aside_with_a_note(tmp_path: Path, notes: list[str], damage: str) -> None:
    write_manifest(str(tmp_path), "faces", rows())
    path = Path(manifest_place(str(tmp_path), "faces"))
    whole = path.read_bytes()
    path.unlink()
    if damage == "folder":
        path.mkdir()
    else:
        flipped = whole[:-20] + bytes([whole[-20] ^ 0xFF]) + whole[-19:]
        path.write_bytes({"empty": b"", "text": b"no manifest" * 99, "half": whole[: len(whole) // 2], "flipped": flipped}[damage])
    assert read_manifest(str(tmp_path), "faces", notes.append) == {}
    (note,) = notes
    assert note.startswith(str(path))
    assert note.endswith("its clips are examined again")


def test_manifest_of_another_version_is_left_aside_with_a_note(tmp_path: Path, notes: list[str]) -> None:
    write_manifest(str(tmp_path), "faces", rows())
    path = manifest_place(str(tmp_path), "faces")
    table = pq.read_table(path)
    others = [
        table.replace_schema_metadata({b"ray_s2v.manifest": b"0"}),
        table.replace_schema_metadata({}),
        table.drop_columns(["sound.peak"]).replace_schema_metadata(table.schema.metadata),
        table.append_column("more", table["name"]).replace_schema_metadata(table.schema.metadata),
    ]
    for other in others:
        pq.write_table(other, path)
        assert read_manifest(str(tmp_path), "faces", notes.append) == {}
    assert notes == [f"{path} is of another version of ray_s2v; its clips are examined again"] * len(others)
    pq.write_table(table, path)
    assert len(read_manifest(str(tmp_path), "faces", notes.append)) == len(rows())
    assert table.schema.equals(ROW_SCHEMA)


def test_store_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "store").write_text("a file")
    with pytest.raises(DataError, match=rf"^data\.store: {tmp_path}/store/manifest/faces\.parquet cannot be written: "):
        write_manifest(str(tmp_path / "store"), "faces", rows())


def test_failed_write_leaves_the_manifest_and_nothing_else(tmp_path: Path, notes: list[str]) -> None:
    write_manifest(str(tmp_path), "faces", rows())
    (tmp_path / "manifest/more.parquet").mkdir()  # cannot be replaced by a file
    with pytest.raises(DataError, match=r"more\.parquet cannot be written: "):
        write_manifest(str(tmp_path), "more", rows())
    assert sorted(path.name for path in (tmp_path / "manifest").iterdir()) == ["faces.parquet", "more.parquet"]
    assert len(read_manifest(str(tmp_path), "faces", notes.append)) == len(rows())
