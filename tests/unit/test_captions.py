"""What is said of a clip, from a text or JSON file, wherever that lies."""

import json
from pathlib import Path

import pytest

from ray_s2v.data.captions import MAX_BYTES, read_captions
from ray_s2v.data.found import Part
from ray_s2v.data.tars import members_of
from ray_s2v.schema import ClipError
from tests.clips import write_tar


def part(path: Path, content: bytes) -> Part:
    path.write_bytes(content)
    return Part(str(path), len(content), 0)


@pytest.mark.parametrize(
    ("content", "captions"),
    [
        (b"one", ("one",)),
        (b"one\n", ("one",)),
        (b"one\r\ntwo\r\n", ("one", "two")),
        (b"\n  one  \n\n\t\ntwo", ("one", "two")),
        (b"\xef\xbb\xbfone\ntwo", ("one", "two")),  # Windows' editors write a byte order mark in front of UTF-8
        ("ein Gesicht, грустно, 顔 🙂".encode(), ("ein Gesicht, грустно, 顔 🙂",)),
    ],
)
def test_captions_are_the_lines_that_say_something(tmp_path: Path, content: bytes, captions: tuple[str, ...]) -> None:
    assert read_captions(part(tmp_path / "x.txt", content)) == captions


@pytest.mark.parametrize("content", [b"", b"\n", b"  \n\t\n \r\n", b"\xef\xbb\xbf", b"\xef\xbb\xbf\n"])
def test_empty_caption_is_refused(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(ClipError, match=r"^the caption x\.txt is empty$"):
        read_captions(part(tmp_path / "x.txt", content))


@pytest.mark.parametrize("content", [b"caf\xe9", "face".encode("utf-16"), b"\xff\xfe"])
def test_caption_in_another_encoding_is_refused(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(ClipError, match=r"^the caption x\.txt is not UTF-8$"):
        read_captions(part(tmp_path / "x.txt", content))


@pytest.mark.parametrize(
    ("value", "captions"),
    [
        ({"caption": "one"}, ("one",)),
        ({"caption": " one\ntwo ", "fps": 25}, ("one\ntwo",)),
        ({"caption": ["one", " two ", ""]}, ("one", "two")),
    ],
)
def test_caption_of_json_is_its_key_caption(tmp_path: Path, value: object, captions: tuple[str, ...]) -> None:
    assert read_captions(part(tmp_path / "x.json", json.dumps(value).encode())) == captions


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"{", "the caption x.json is not JSON"),
        (b"[" * 100_000, "the caption x.json is not JSON"),
        (b"[1]", 'the caption x.json has no key "caption"'),
        (b'{"text": "one"}', 'the caption x.json has no key "caption"'),
        (b'{"caption": 1}', '"caption" in x.json is no text'),
        (b'{"caption": ["one", null]}', '"caption" in x.json is no text'),
        (b'{"caption": null}', '"caption" in x.json is no text'),
        (b'{"caption": ""}', "the caption x.json is empty"),
        (b'{"caption": []}', "the caption x.json is empty"),
        (b'{"caption": "\\ud83d"}', "the caption x.json is not UTF-8"),  # half of a character
        (b'{"caption": "\xe9"}', "the caption x.json is not UTF-8"),
    ],
)
def test_json_without_a_caption_is_refused(tmp_path: Path, content: bytes, reason: str) -> None:
    with pytest.raises(ClipError) as caught:
        read_captions(part(tmp_path / "x.json", content))
    assert str(caught.value) == reason


def test_member_of_a_tar_is_read_where_it_lies(tmp_path: Path) -> None:
    write_tar(tmp_path / "a.tar", [("a/x.txt", b"of x\nagain"), ("a/y.txt", b"of y"), ("a/z.txt", b"\xff")])
    tar = tmp_path / "a.tar"
    members, rejected = members_of(Part(str(tar), tar.stat().st_size, 0))
    assert not rejected
    assert [read_captions(members[f"a/{name}.txt"]) for name in "xy"] == [("of x", "again"), ("of y",)]
    with pytest.raises(ClipError, match=r"^the caption z\.txt is not UTF-8$"):
        read_captions(members["a/z.txt"])


def test_what_is_too_large_for_a_caption_is_not_read(tmp_path: Path) -> None:
    read_captions(part(tmp_path / "x.txt", b"a" * MAX_BYTES))
    with pytest.raises(ClipError, match=r"x\.txt has 1048577 bytes, more than 1048576"):
        read_captions(part(tmp_path / "x.txt", b"a" * (MAX_BYTES + 1)))


def test_file_that_is_gone_is_no_fact_about_the_clip(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_captions(Part(str(tmp_path / "x.txt"), 3, 0))
