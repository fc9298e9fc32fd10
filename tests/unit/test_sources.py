"""Folders of clips, with sounds and poses beside or apart: what is found under which name, and what is refused and why."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from ray_s2v.data.found import Found, Rejected
from ray_s2v.data.sources import find
from ray_s2v.schema import ConfigError
from tests.clips import source, touch


def names(path: Path, **changes: Any) -> list[str]:
    """Of the clips; nothing is rejected."""
    found, rejected = find(source(path, **changes))
    assert rejected == []
    return [clip.name for clip in found]


def only(path: Path, **changes: Any) -> Found:
    """The one clip; nothing is rejected."""
    (found,), rejected = find(source(path, **changes))
    assert rejected == []
    return found


def reasons(path: Path, **changes: Any) -> dict[str, str]:
    """Of what is rejected, by the path below the folder."""
    return {Path(r.path).relative_to(path).as_posix(): r.reason for r in find(source(path, **changes))[1]}


def test_folder_is_searched_for_videos_only(tmp_path: Path) -> None:
    videos = ["b.mp4", "a.MP4", "deep/er/c.mov", "deep/d.mkv", "e.webm", "f.avi", "g.M4V", "has space.mp4", "é.mp4", "#1+2.mp4"]
    touch(tmp_path, videos + [f"{os.path.splitext(name)[0]}.txt" for name in videos])
    touch(tmp_path, ["a.wav", "notes", "half.mp4.part", "mp4", ".mp4", "picture.png", ".hidden.mp4", ".hidden/x.mp4", "deep/.x.mp4"])
    (tmp_path / "folder.mp4").mkdir()
    os.mkfifo(tmp_path / "pipe.mp4")
    assert names(tmp_path) == sorted(videos)


def test_part_is_place_size_and_time(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"123")
    touch(tmp_path, ["a.txt"])
    os.utime(tmp_path / "a.mp4", ns=(1, 1_700_000_000_123_456_789))
    assert only(tmp_path).video == (f"{tmp_path}/a.mp4", 3, 1_700_000_000_123_456_789)


def test_place_is_absolute_wherever_the_job_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path / "faces", ["a.mp4", "a.txt"])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for path in ("faces", "./faces/", "faces/../faces", "~/faces"):
        found, _ = find(source(path))
        assert [(clip.name, clip.video.place) for clip in found] == [("a.mp4", f"{tmp_path}/faces/a.mp4")]


def test_linked_folders_and_files_are_followed(tmp_path: Path) -> None:
    touch(tmp_path / "elsewhere", ["a.mp4", "a.txt"])
    touch(tmp_path / "faces", ["b.txt"])
    (tmp_path / "faces/linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "faces/again").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "faces/b.mp4").symlink_to(tmp_path / "elsewhere/a.mp4")
    (tmp_path / "to_faces").symlink_to("faces")
    assert names(tmp_path / "faces") == names(tmp_path / "to_faces") == ["again/a.mp4", "b.mp4", "linked/a.mp4"]


def test_links_in_a_circle_are_told_once_and_stop_nothing(tmp_path: Path) -> None:
    touch(tmp_path, ["a.mp4", "a.txt", "deep/b.mp4", "deep/b.txt"])
    (tmp_path / "deep/up").symlink_to("..")
    assert [clip.name for clip in find(source(tmp_path))[0]] == ["a.mp4", "deep/b.mp4"]
    assert reasons(tmp_path) == {"deep/up": "a link to a folder that it lies in"}
    (tmp_path / "to_root").symlink_to(tmp_path)
    assert [clip.name for clip in find(source(tmp_path / "to_root"))[0]] == ["a.mp4", "deep/b.mp4"]


def test_broken_links_are_told_and_stop_nothing(tmp_path: Path) -> None:
    touch(tmp_path, ["a.mp4", "a.txt"])
    (tmp_path / "gone.mp4").symlink_to("nowhere")
    (tmp_path / "gone_folder").symlink_to("/nowhere/at/all")
    (tmp_path / "itself.mp4").symlink_to("itself.mp4")
    assert [clip.name for clip in find(source(tmp_path))[0]] == ["a.mp4"]
    assert reasons(tmp_path) == {
        "gone.mp4": "a link to what is not there",
        "gone_folder": "a link to what is not there",
        "itself.mp4": "cannot be read: Too many levels of symbolic links",
    }


@contextmanager
def nobody() -> Iterator[None]:
    """A user without rights, where the tests run as root."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_folder_that_cannot_be_read_is_told_and_stops_nothing() -> None:
    with tempfile.TemporaryDirectory() as folder:  # pytest's own are closed to others
        root = Path(folder)
        root.chmod(0o755)
        touch(root, ["a.mp4", "a.txt", "closed/b.mp4", "closed/b.txt"])
        (root / "closed").chmod(0)
        with nobody():
            found = [clip.name for clip in find(source(root))[0]]
            rejected = reasons(root)
        (root / "closed").chmod(0o755)
    assert found == ["a.mp4"]
    assert rejected == {"closed": "the folder cannot be read: Permission denied"}


def test_name_that_is_not_utf8_is_refused_readably(tmp_path: Path) -> None:
    touch(tmp_path, ["a.mp4", "a.txt"])
    for name in (b"caf\xe9.mp4", b"caf\xe9.txt"):
        (Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name))).touch()
    assert [clip.name for clip in find(source(tmp_path))[0]] == ["a.mp4"]
    assert reasons(tmp_path) == {"caf\\xe9.mp4": "its name is not UTF-8", "caf\\xe9.txt": "its name is not UTF-8"}


@pytest.mark.parametrize("changes", [{}, {"audio_path": "nowhere"}, {"pose_path": "nowhere"}])
def test_place_that_is_not_there_is_named(tmp_path: Path, changes: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = "." if changes else "nowhere"
    with pytest.raises(ConfigError) as caught:
        find(source(path, **changes))
    assert str(caught.value) == f"data.sources: {tmp_path}/nowhere: no such file or folder"


def test_file_that_is_no_source_is_refused(tmp_path: Path) -> None:
    touch(tmp_path, ["a.mp4"])
    with pytest.raises(ConfigError, match=r"a\.mp4: must be a folder, or a \.tar, \.parquet or \.csv file"):
        find(source(tmp_path / "a.mp4"))
    with pytest.raises(ConfigError, match=r"a\.mp4: not a folder"):
        find(source(tmp_path, audio_path=str(tmp_path / "a.mp4")))
    with pytest.raises(ConfigError, match=r"http:// cannot be read"):
        find(source("http://host/clips"))


def test_caption_is_the_text_of_the_stem(tmp_path: Path) -> None:
    touch(tmp_path, ["a.mp4", "b.mp4", "b.txt", "b.v2.mp4", "b.v2.txt", "d/a.txt", "c.mp4"])
    (tmp_path / "c.txt").mkdir()
    found, _ = find(source(tmp_path))
    assert {clip.name: clip.caption.place for clip in found if clip.caption} == {
        "b.mp4": f"{tmp_path}/b.txt",
        "b.v2.mp4": f"{tmp_path}/b.v2.txt",
    }
    assert all(clip.words is None for clip in found)
    assert reasons(tmp_path) == {"a.mp4": "no caption: a.txt is not there", "c.mp4": "no caption: c.txt is not there"}


def test_caption_of_the_file_name(tmp_path: Path) -> None:
    touch(tmp_path, ["deep/a_face__talks.v2.mp4", "a_face__talks.v2.txt", "___.mp4"])
    found, _ = find(source(tmp_path, caption="filename"))
    assert [(clip.words, clip.caption) for clip in found] == [(("a face  talks.v2",), None)]
    assert reasons(tmp_path, caption="filename") == {"___.mp4": "no caption: the file name holds no words"}


def test_caption_that_is_the_same_for_all(tmp_path: Path) -> None:
    touch(tmp_path, ["a.mp4", "b.mp4"])
    found, rejected = find(source(tmp_path, caption="fixed", instance_prompt=" a face of sks "))
    assert [(clip.words, clip.caption) for clip in found] == [(("a face of sks",), None)] * 2
    assert rejected == []


def test_column_is_not_for_a_folder(tmp_path: Path) -> None:
    touch(tmp_path, ["a.mp4", "a.json"])
    with pytest.raises(ConfigError, match=rf"{tmp_path}: caption: column is for manifests and tars, and a\.mp4 is a file of its own"):
        find(source(tmp_path, caption="column"))


def test_sound_is_in_the_video_unless_it_is_elsewhere(tmp_path: Path) -> None:
    touch(tmp_path, ["a.mp4", "a.txt", "a.wav"])
    for auto_split in (None, True):
        clip = only(tmp_path, auto_split=auto_split)
        assert clip.audio == clip.video
    assert only(tmp_path, auto_split=False, allow_zero_audio=True).audio is None


@pytest.mark.parametrize("suffix", ["wav", "mp3", "flac", "ogg", "m4a", "WAV"])
def test_sound_is_paired_by_the_stem_below_its_root(tmp_path: Path, suffix: str) -> None:
    touch(tmp_path / "faces", ["a/b.v2.mp4", "a/b.v2.txt"])
    touch(tmp_path / "voices", [f"a/b.v2.{suffix}", f"b.v2.{suffix}", f"a/b.{suffix}", "a/b.v2.txt", "a/b.v2.mp4"])
    sound = only(tmp_path / "faces", audio_path=str(tmp_path / "voices")).audio
    assert sound
    assert sound.place == f"{tmp_path}/voices/a/b.v2.{suffix}"


def test_sound_may_lie_beside_its_video(tmp_path: Path) -> None:
    touch(tmp_path, ["a.mp4", "a.txt", "a.wav"])
    sound = only(tmp_path, audio_path=str(tmp_path)).audio
    assert sound
    assert sound.place == f"{tmp_path}/a.wav"


@pytest.mark.parametrize("allow_zero_audio", [False, True])
def test_sound_is_never_guessed(tmp_path: Path, allow_zero_audio: bool) -> None:
    voices = tmp_path / "voices"
    touch(tmp_path / "faces", ["a/one.mp4", "a/one.txt", "two.mp4", "two.txt"])
    touch(voices, ["one.wav", "two.wav", "two.mp3"])
    found, rejected = find(source(tmp_path / "faces", audio_path=str(voices), allow_zero_audio=allow_zero_audio))
    two = Rejected(f"{tmp_path}/faces/two.mp4", f"two sounds: {voices}/two.mp3 and {voices}/two.wav")
    if allow_zero_audio:
        assert [(clip.name, clip.audio) for clip in found] == [("a/one.mp4", None)]
        assert rejected == [two]
    else:
        assert found == []
        assert rejected == [Rejected(f"{tmp_path}/faces/a/one.mp4", f"no sound: a/one.* is not in {voices}"), two]


def test_what_cannot_be_listed_of_the_sounds_is_told(tmp_path: Path) -> None:
    touch(tmp_path / "faces", ["a.mp4", "a.txt"])
    touch(tmp_path / "voices", ["a.wav"])
    (tmp_path / "voices/b.wav").symlink_to("nowhere")
    found, rejected = find(source(tmp_path / "faces", audio_path=str(tmp_path / "voices")))
    assert len(found) == 1
    assert rejected == [Rejected(f"{tmp_path}/voices/b.wav", "a link to what is not there")]


def test_pose_is_paired_by_stem_or_left_out(tmp_path: Path) -> None:
    poses = tmp_path / "poses"
    touch(tmp_path / "faces", [f"{name}{suffix}" for name in ("a/one", "none", "two") for suffix in (".mp4", ".txt")])
    touch(poses, ["a/one.mov", "two.mp4", "two.mov", "none.wav"])
    found, rejected = find(source(tmp_path / "faces", pose_path=str(poses)))
    assert [(clip.name, clip.pose.place if clip.pose else None) for clip in found] == [
        ("a/one.mp4", f"{poses}/a/one.mov"),
        ("none.mp4", None),
    ]
    assert rejected == [Rejected(f"{tmp_path}/faces/two.mp4", f"two pose videos: {poses}/two.mov and {poses}/two.mp4")]


def test_empty_folder_holds_nothing(tmp_path: Path) -> None:
    assert find(source(tmp_path)) == ([], [])
