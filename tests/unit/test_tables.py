"""Parquet and CSV manifests: names, columns, paths that lead out or nowhere, and what makes a manifest unreadable."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ray_s2v.data.found import Found, Rejected
from ray_s2v.data.sources import find
from ray_s2v.schema import ConfigError, DataError
from tests.clips import source, touch


def write_table(path: Path, columns: dict[str, Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        pq.write_table(pa.table(columns), path)
    else:
        rows = [",".join('"' + (cell or "").replace('"', '""') + '"' for cell in row) for row in zip(*columns.values(), strict=True)]
        path.write_text("\n".join([",".join(columns), *rows]) + "\n", encoding="utf-8")
    return path


def clips(path: Path, **changes: Any) -> list[Found]:
    """All are usable."""
    found, rejected = find(source(path, **changes))
    assert rejected == []
    return found


@pytest.fixture(params=["clips.parquet", "clips.csv"])
def manifest(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Where a manifest of either kind goes."""
    return tmp_path / "data" / request.param


def test_paths_are_below_the_manifest_or_whole(manifest: Path, tmp_path: Path) -> None:
    touch(manifest.parent, ["b.mp4", "deep/a.mp4", "c.mp4"])
    touch(tmp_path, ["other/d.mp4"])
    videos = ["./b.mp4", "deep/../deep/a.mp4", f"{manifest.parent}/c.mp4", f"{tmp_path}/other/../other/d.mp4"]
    write_table(manifest, {"video": videos, "caption": ["b", "a", "c", "d"], "fps": ["1", "2", "3", "4"]})
    whole = f"{tmp_path}/other/d.mp4"
    assert [(clip.name, clip.video.place, clip.words) for clip in clips(manifest)] == sorted(
        [
            ("b.mp4", f"{manifest.parent}/b.mp4", ("b",)),
            ("deep/a.mp4", f"{manifest.parent}/deep/a.mp4", ("a",)),
            ("c.mp4", f"{manifest.parent}/c.mp4", ("c",)),
            (whole.lstrip("/"), whole, ("d",)),
        ]
    )


def test_rows_that_cannot_be_clips_are_told(manifest: Path) -> None:
    root = manifest.parent
    touch(root, ["a.mp4", "b.mp4", "c.mp4"])
    touch(root.parent, ["out.mp4"])
    (root / "folder.mp4").mkdir(parents=True)
    videos = ["a.mp4", "../out.mp4", "gone.mp4", "gone/x.mp4", "", "folder.mp4", "a.mp4", "b.mp4", "c.mp4"]
    captions = ["a", "out", "gone", "gone", "nothing", "folder", "a again", " ", None]
    write_table(manifest, {"video": videos, "caption": captions})
    found, rejected = find(source(manifest))
    assert [clip.name for clip in found] == ["a.mp4"]
    where, first = (f"{manifest}, row ", 1) if manifest.suffix == ".parquet" else (f"{manifest}, line ", 2)
    expected = [
        Rejected(f"{where}{first + 1}", "a relative path leads out of the manifest's folder"),
        Rejected(f"{root}/gone.mp4", "no such file"),
        Rejected(f"{root}/gone/x.mp4", "no such file"),
        Rejected(f"{where}{first + 4}", "the video cell is empty"),
        Rejected(f"{root}/folder.mp4", "no such file"),
        Rejected(f"{root}/a.mp4", f"clips/a.mp4 is already {root}/a.mp4"),
        Rejected(f"{root}/b.mp4", "no caption: its cell is empty"),
        Rejected(f"{root}/c.mp4", "no caption: its cell is empty"),
    ]
    assert sorted(rejected, key=str) == sorted(expected, key=str)


def test_sound_and_pose_of_columns(manifest: Path) -> None:
    root = manifest.parent
    touch(root, ["a.mp4", "b.mp4", "c.mp4", "d.mp4", "e.mp4", "voices/x.wav", "p.mp4"])
    columns = {
        "video": ["a.mp4", "b.mp4", "c.mp4", "d.mp4", "e.mp4"],
        "audio": ["voices/x.wav", f"{root}/voices/x.wav", "", "voices/gone.wav", "voices/x.wav"],
        "pose": ["p.mp4", "", "", "", "gone.mp4"],
        "caption": ["a", "b", "c", "d", "e"],
    }
    write_table(manifest, columns)
    found, rejected = find(source(manifest))
    places = [(clip.name, clip.audio.place if clip.audio else None, clip.pose.place if clip.pose else None) for clip in found]
    sound = f"{root}/voices/x.wav"
    assert places == [("a.mp4", sound, f"{root}/p.mp4"), ("b.mp4", sound, None)]
    assert rejected == [
        Rejected(f"{root}/c.mp4", "no sound: its cell is empty"),
        Rejected(f"{root}/d.mp4", f"no sound: {root}/voices/gone.wav: no such file"),
        Rejected(f"{root}/e.mp4", f"no pose video: {root}/gone.mp4: no such file"),
    ]
    assert [clip.audio for clip in find(source(manifest, allow_zero_audio=True))[0]][2] is None
    assert all(clip.audio == clip.video for clip in find(source(manifest, auto_split=True))[0])


def test_column_and_folder_of_the_same_contradict(manifest: Path) -> None:
    touch(manifest.parent, ["a.mp4", "a.wav"])
    for column in ("audio", "pose"):
        write_table(manifest, {"video": ["a.mp4"], column: ["a.wav"], "caption": ["a"]})
        with pytest.raises(ConfigError, match=f"clips.* has a column {column}, and {column}_path is {manifest.parent}: give one"):
            find(source(manifest, **{f"{column}_path": str(manifest.parent)}))


def test_sound_apart_is_paired_by_the_name(manifest: Path, tmp_path: Path) -> None:
    touch(manifest.parent, ["deep/a.mp4"])
    touch(tmp_path / "voices", ["deep/a.wav", "a.wav"])
    write_table(manifest, {"video": ["deep/a.mp4"], "caption": ["a"]})
    (clip,) = clips(manifest, audio_path=str(tmp_path / "voices"))
    assert clip.audio
    assert clip.audio.place == f"{tmp_path}/voices/deep/a.wav"


def test_other_captions_than_the_column(manifest: Path) -> None:
    root = manifest.parent
    touch(root, ["a_b.mp4", "deep/c.mp4", "deep/c.txt"])
    write_table(manifest, {"video": ["a_b.mp4", "deep/c.mp4"]})
    assert [clip.words for clip in clips(manifest, caption="filename")] == [("a b",), ("c",)]
    assert [clip.words for clip in clips(manifest, caption="fixed", instance_prompt="sks")] == [("sks",), ("sks",)]
    found, rejected = find(source(manifest, caption="textfile"))
    assert [clip.caption.place for clip in found if clip.caption] == [f"{root}/deep/c.txt"]
    assert rejected == [Rejected(f"{root}/a_b.mp4", "no caption: a_b.txt is not there")]
    for caption in (None, "column"):
        with pytest.raises(ConfigError, match="has no column caption: add it, or set caption to textfile, filename or fixed"):
            find(source(manifest, caption=caption))


def test_parquet_takes_lists_of_captions_and_other_kinds_of_text(tmp_path: Path) -> None:
    touch(tmp_path, ["a.mp4", "b.mp4", "c.mp4"])
    videos = ["a.mp4", "b.mp4", "c.mp4"]
    captions = [["one", " two ", None, ""], ["three"], []]
    for text in (pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())):
        for many in (pa.list_, pa.large_list):
            kinds = {"video": pa.array(videos, pa.string()).cast(text), "caption": pa.array(captions, many(pa.string()))}
            write_table(tmp_path / "m.parquet", kinds)
            found, rejected = find(source(tmp_path / "m.parquet"))
            assert [clip.words for clip in found] == [("one", "two"), ("three",)]
            assert rejected == [Rejected(f"{tmp_path}/c.mp4", "no caption: its cell is empty")]


def test_folder_of_parquet_files_is_one_manifest(tmp_path: Path) -> None:
    touch(tmp_path / "videos", ["a.mp4", "b.mp4"])
    for part, name in (("one", "b"), ("deep/two", "a")):
        write_table(tmp_path / f"tables/{part}.parquet", {"video": [f"{tmp_path}/videos/{name}.mp4"], "caption": [name]})
    touch(tmp_path / "tables", [".hidden.parquet", "readme.md"])
    assert [(clip.name, clip.words) for clip in clips(tmp_path / "tables")] == [
        (f"{tmp_path}/videos/a.mp4".lstrip("/"), ("a",)),
        (f"{tmp_path}/videos/b.mp4".lstrip("/"), ("b",)),
    ]


def test_folder_with_videos_is_no_manifest(tmp_path: Path) -> None:
    touch(tmp_path, ["a.mp4", "a.txt", "b.mp4", "b.txt"])
    write_table(tmp_path / "m.parquet", {"video": ["a.mp4"], "caption": ["a"]})
    assert [clip.name for clip in clips(tmp_path)] == ["a.mp4", "b.mp4"]


def test_manifest_without_videos_names_its_columns(manifest: Path) -> None:
    write_table(manifest, {"path": ["a.mp4"], "text": ["a"]})
    with pytest.raises(DataError) as caught:
        find(source(manifest))
    assert str(caught.value) == f"data.sources: {manifest} has no column video; its columns are path, text"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "m.csv has no column video; its columns are none"),
        (b"video;caption\na.mp4;a\n", "m.csv has no column video; its columns are video;caption"),
        (b"video,caption\na.mp4,a,more\n", "m.csv, line 2: 3 values for 2 columns"),
        (b"video,caption\na.mp4,a\n\nb.mp4\n", "m.csv, line 4: 1 values for 2 columns"),
        (b'video,caption\na.mp4,a\nb.mp4,"open\n', "m.csv, line 3: unexpected end of data"),
        (b'video,caption\na.mp4,"a" b\n', "m.csv, line 2: ',' expected after '\"'"),
        (b"video,caption\na.mp4,a\nb.mp4,caf\xe9\n", "m.csv, line 3: not UTF-8"),
        ("video,caption\n".encode("utf-16"), "m.csv, line 1: not UTF-8"),
        (b"video,video,caption\na,b,c\n", "m.csv has two columns video"),
    ],
)
def test_broken_csv_is_told_with_the_line(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "m.csv").write_bytes(content)
    with pytest.raises(DataError) as caught:
        find(source(tmp_path / "m.csv"))
    assert str(caught.value) == f"data.sources: {tmp_path}/{message}"


def test_csv_of_other_editors(tmp_path: Path) -> None:
    """With a byte order mark, Windows' line ends, quotes and lines in a cell."""
    touch(tmp_path, ["a, b.mp4"])
    (tmp_path / "m.csv").write_bytes(b'\xef\xbb\xbfvideo,caption\r\n"a, b.mp4","she says ""ah""\r\nand ""oh"""\r\n')
    assert [clip.words for clip in clips(tmp_path / "m.csv")] == [('she says "ah"\r\nand "oh"',)]


def test_broken_parquet_is_told(tmp_path: Path) -> None:
    path = tmp_path / "m.parquet"
    write_table(path, {"video": ["a.mp4"] * 100, "caption": ["a"] * 100})
    whole = path.read_bytes()
    for content in (b"", b"no parquet", whole[: len(whole) // 2]):
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"m\.parquet cannot be read: "):
            find(source(path))


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"video": pa.array([1])}, "column video is int64, must be string"),
        ({"video": pa.array([{"bytes": b"", "path": "a"}])}, "column video is struct<bytes: binary, path: string>, must be string"),
        ({"video": ["a.mp4"], "caption": pa.array([[1]])}, "column caption is list<element: int64>, must be string"),
        ({"video": pa.array([["a.mp4"]])}, "column video is list<element: string>, must be string"),
    ],
)
def test_columns_of_another_kind_are_refused(tmp_path: Path, columns: dict[str, Any], message: str) -> None:
    write_table(tmp_path / "m.parquet", columns)
    with pytest.raises(DataError) as caught:
        find(source(tmp_path / "m.parquet"))
    assert str(caught.value).endswith(message)
