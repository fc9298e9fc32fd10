"""Folders of clips to the manifest: what is found, what is refused and with which reason. Nothing here starts Ray."""

import csv
import io
import shutil
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ray_s2v.config.source import Source
from ray_s2v.data.discover import Rejected, captions_beside, check_rejected, examine, find_videos, rejected_csv
from ray_s2v.media.write import write_video
from ray_s2v.schema import SAMPLE_RATE, Bucket, Clip, ClipError, DataError

NUM_FRAMES = 24


def source(path: Path | str, **changes: Any) -> Source:
    return Source.model_validate({"path": str(path), "resolution": "64x64", "num_frames": 16} | changes)


def clip(name: str) -> Clip:
    return Clip(name, f"/data/{name}", ("a caption",), NUM_FRAMES, Bucket(64, 64, 16))


def write_clip(path: Path, num_frames: int = NUM_FRAMES, width: int = 64, height: int = 64) -> None:
    pictures = np.random.default_rng(0).integers(256, size=(num_frames, height // 16, width // 16, 3), dtype=np.uint8)
    times = np.arange(num_frames * SAMPLE_RATE // 16) / SAMPLE_RATE
    tone = (0.5 * np.sin(2 * np.pi * 440 * times)).astype(np.float32)
    write_video(path, (np.kron(p, np.ones((16, 16, 1), np.uint8)) for p in pictures), Fraction(16), tone, preset="ultrafast")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """faces/one.mp4 and faces/deep/two.mp4 with captions, faces/bad.mp4 that is no video."""
    root = tmp_path_factory.mktemp("discover") / "faces"
    (root / "deep").mkdir(parents=True)
    write_clip(root / "one.mp4")
    shutil.copy(root / "one.mp4", root / "deep" / "two.mp4")
    (root / "one.txt").write_text("a face\n\n  another caption  \n")
    (root / "deep" / "two.txt").write_text("two")
    (root / "bad.mp4").write_text("no video")
    (root / "bad.txt").write_text("bad")
    return root


def test_find_videos_is_recursive_sorted_and_takes_videos_only(tmp_path: Path) -> None:
    names = ["b.mp4", "a.MP4", "deep/er/c.mov", "deep/d.mkv", "e.webm", "f.avi", "g.M4V", "has space.mp4", "é.mp4"]
    others = ["a.txt", "b.wav", "notes", "half.mp4.part", "mp4", ".mp4", "picture.png"]
    for name in names + others:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "folder.mp4").mkdir()
    found = find_videos(source(tmp_path))
    assert {path.relative_to(tmp_path).as_posix() for path in found} == set(names)
    assert found == sorted(found)


@pytest.mark.parametrize(
    ("content", "captions"),
    [
        (b"one", ("one",)),
        (b"one\n", ("one",)),
        (b"one\r\ntwo\r\n", ("one", "two")),
        (b"\n  one  \n\n\t\ntwo", ("one", "two")),
        ("ein Gesicht, грустно, 顔 🙂".encode(), ("ein Gesicht, грустно, 顔 🙂",)),
    ],
)
def test_captions_are_the_lines_that_say_something(tmp_path: Path, content: bytes, captions: tuple[str, ...]) -> None:
    (tmp_path / "x.txt").write_bytes(content)
    assert captions_beside(tmp_path / "x.mp4") == captions


def test_byte_order_mark_is_no_part_of_a_caption(tmp_path: Path) -> None:
    """Windows' editors write one in front of UTF-8."""
    (tmp_path / "x.txt").write_bytes(b"\xef\xbb\xbfone\ntwo")
    assert captions_beside(tmp_path / "x.mp4") == ("one", "two")


@pytest.mark.parametrize("content", [b"", b"\n", b"  \n\t\n \r\n", b"\xef\xbb\xbf", b"\xef\xbb\xbf\n"])
def test_empty_caption_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.txt").write_bytes(content)
    with pytest.raises(ClipError, match=r"x\.txt is empty"):
        captions_beside(tmp_path / "x.mp4")


@pytest.mark.parametrize("content", [b"caf\xe9", "face".encode("utf-16"), b"\xff\xfe"])
def test_caption_in_another_encoding_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.txt").write_bytes(content)
    with pytest.raises(ClipError, match=r"x\.txt is not UTF-8"):
        captions_beside(tmp_path / "x.mp4")


def test_missing_caption_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ClipError, match=r"x\.txt is not there"):
        captions_beside(tmp_path / "x.mp4")


def test_caption_that_cannot_be_opened_is_a_reason_and_no_crash(tmp_path: Path) -> None:
    (tmp_path / "x.txt").mkdir()
    with pytest.raises(ClipError, match=r"x\.txt"):
        captions_beside(tmp_path / "x.mp4")


def test_examine_gives_the_line_of_the_manifest(folder: Path) -> None:
    found = [examine(video, source(folder)) for video in find_videos(source(folder))]
    bucket = Bucket(64, 64, 16)
    assert found[1:] == [
        Clip("faces/deep/two.mp4", str(folder / "deep/two.mp4"), ("two",), NUM_FRAMES, bucket),
        Clip("faces/one.mp4", str(folder / "one.mp4"), ("a face", "another caption"), NUM_FRAMES, bucket),
    ]
    assert isinstance(found[0], Rejected)
    assert found[0].path == str(folder / "bad.mp4")


def test_ids_are_the_same_wherever_the_folder_lies(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "faces")
    moved = source(f"{tmp_path}/faces/")
    ids = []
    for place in (source(folder), moved, moved):
        found = [examine(video, place) for video in find_videos(place)]
        ids.append([outcome.clip_id for outcome in found if isinstance(outcome, Clip)])
    assert ids == [["faces/deep/two.mp4", "faces/one.mp4"]] * 3


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"num_frames": NUM_FRAMES + 4}, f"too short: {NUM_FRAMES} frames at 16 a second, num_frames is {NUM_FRAMES + 4}"),
        ({"resolution": 32, "resolution_type": "pixel"}, "64x64 would become 32x32; the network needs 64 pixels each way"),
    ],
)
def test_examine_refuses_with_the_reason(folder: Path, changes: dict[str, Any], reason: str) -> None:
    video = folder / "one.mp4"
    assert examine(video, source(folder, **changes)) == Rejected(str(video), reason)


def test_clip_of_just_the_length_is_taken(folder: Path) -> None:
    outcome = examine(folder / "one.mp4", source(folder, num_frames=NUM_FRAMES))
    assert isinstance(outcome, Clip)
    assert outcome.num_frames == outcome.bucket.num_frames == NUM_FRAMES


def test_examine_of_what_is_broken(folder: Path, tmp_path: Path) -> None:
    root = tmp_path / "broken"
    root.mkdir()
    whole = (folder / "one.mp4").read_bytes()
    for name, content in {"empty": b"", "text": b"no video", "half": whole[: len(whole) // 2], "uncaptioned": whole}.items():
        (root / f"{name}.mp4").write_bytes(content)
        (root / f"{name}.txt").write_text(name)
    (root / "uncaptioned.txt").unlink()
    outcomes = [examine(video, source(root)) for video in find_videos(source(root))]
    assert [Path(outcome.path).stem for outcome in outcomes] == ["empty", "half", "text", "uncaptioned"]
    assert all(isinstance(outcome, Rejected) and outcome.reason for outcome in outcomes)
    assert len({outcome.reason for outcome in outcomes if isinstance(outcome, Rejected)}) == 4


def test_check_rejected_within_the_share_passes() -> None:
    clips = [clip(f"{i}.mp4") for i in range(99)]
    check_rejected(clips, [], 0.0)
    check_rejected(clips, [Rejected("a", "b")], 0.01)


def test_check_rejected_above_the_share_lists_reasons() -> None:
    rejected = [Rejected(f"/data/bad_{i}.mp4", f"reason {i}") for i in range(25)]
    with pytest.raises(DataError) as caught:
        check_rejected([clip(f"{i}.mp4") for i in range(75)], rejected, 0.2)
    message = str(caught.value)
    assert "25 clips (25.0%) were rejected, data.max_rejected is 20.0%" in message
    assert [line.strip() for line in message.splitlines()[1:]] == [f"{r.path}: {r.reason}" for r in rejected[:20]] + ["..."]


@pytest.mark.parametrize("rejected", [[], [Rejected("/data/bad.mp4", "the file is empty")]])
def test_no_usable_clip_is_an_error_whatever_may_be_rejected(rejected: list[Rejected]) -> None:
    with pytest.raises(DataError, match="no usable clip") as caught:
        check_rejected([], rejected, 1.0)
    assert all(r.path in str(caught.value) and r.reason in str(caught.value) for r in rejected)


def test_rejected_csv_reads_back() -> None:
    rejected = [
        Rejected("/data/a.mp4", "too short: 3 frames"),
        Rejected('/data/with "quotes", commas.mp4', "reason, with a comma"),
        Rejected("/data/new\nline.mp4", 'and "quotes"'),
        Rejected("/data/gesicht_ü_顔.mp4", ""),
    ]
    read = list(csv.DictReader(io.StringIO(rejected_csv(rejected), newline="")))
    assert read == [{"path": r.path, "reason": r.reason} for r in rejected]
    assert rejected_csv([]) == "path,reason\n"
