"""Places: paths, URIs and members of tars. The object store is a small server of this test, read by the real client."""

import io
import os
import tarfile
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from ray_s2v.media.audio import read_audio
from ray_s2v.media.container import open_media
from ray_s2v.media.picture import centred
from ray_s2v.media.video import read_frames
from ray_s2v.media.write import write_video
from ray_s2v.schema import SAMPLE_RATE, ClipError, ConfigError
from ray_s2v.storage import READ_AHEAD, Member, _file_system, absolute, file_system, member_of, open_file, scheme_of

NAMES = [
    "x.mp4",
    "deep/er/x.mp4",
    "a#b.mp4",
    "1+2=3.mp4",
    "c#7+9/d.mp4",
    "in.tar#5+6/x.mp4",
    "./x.mp4",
    "with space é.mp4",
    "line\nbreak.mp4",
]


@pytest.mark.parametrize("tar", ["/data/shard.tar", "/da#ta/shard-00+1.tar", "s3://bucket/shard.tar", "/data/x.tar.tar"])
@pytest.mark.parametrize("name", NAMES)
def test_member_is_written_as_it_is_read(tar: str, name: str) -> None:
    member = Member(tar, 512, 10_240, name)
    assert member_of(str(member)) == member


@pytest.mark.parametrize(
    "place", ["/data/x.mp4", "/data/shard.tar", "/data/shard.tar#512/x.mp4", "/data/shard.tar#1+2", "/a#1+2/x.mp4", "/data/a.tgz#1+2/x"]
)
def test_other_places_are_no_members(place: str) -> None:
    assert member_of(place) is None


def test_schemes() -> None:
    assert [scheme_of(place) for place in ("s3://b/x", "gs://b/x", "hf://datasets/o/n/x")] == ["s3", "gs", "hf"]
    assert [scheme_of(place) for place in ("/data/x", "x.mp4", "C:x", "/data/a://b", "")] == [""] * 5
    for place in ("ftp://host/x", "http://host/x", "S3://bucket/x", "file:///data/x"):
        for take in (scheme_of, absolute, file_system, open_file):
            with pytest.raises(ConfigError, match=r"cannot be read; s3://, gs://, hf:// and paths can"):
                take(place)


def test_absolute(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/someone")
    given = ["clips", "./clips/", "../x", "~/clips", "/data//clips/", "s3://bucket/clips/", "s3://bucket//a/../b"]
    expected = [f"{tmp_path}/clips", f"{tmp_path}/clips", f"{tmp_path.parent}/x", "/home/someone/clips", "/data/clips"]
    assert [absolute(place) for place in given] == [*expected, "s3://bucket/clips", "s3://bucket//a/../b"]


@pytest.fixture(scope="module")
def shard(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, bytes]]:
    """A tar of members of many sizes, and what is in them."""
    path = tmp_path_factory.mktemp("tar") / "shard.tar"
    random = np.random.default_rng(0)
    sizes = [0, 1, 511, 512, 513, 10_000, READ_AHEAD, READ_AHEAD + 1, 3 * READ_AHEAD + 777]
    contents = {f"{NAMES[index]}": random.bytes(size) for index, size in enumerate(sizes)}
    with tarfile.open(path, "w") as tar:
        for name, content in contents.items():
            header = tarfile.TarInfo(name)
            header.size = len(content)
            tar.addfile(header, io.BytesIO(content))
    return path, contents


def members(path: Path) -> Iterator[tuple[str, str]]:
    """Name and place of each."""
    with tarfile.open(path) as tar:
        for found in tar:
            yield found.name, str(Member(str(path), found.offset_data, found.size, found.name))


def test_members_hold_what_was_put_in(shard: tuple[Path, dict[str, bytes]]) -> None:
    path, contents = shard
    read = {}
    for name, place in members(path):
        with open_file(place) as file:
            read[name] = file.read()
            assert file.read() == file.read(5) == b""
    assert read == contents


def test_member_is_sought_like_a_file(shard: tuple[Path, dict[str, bytes]]) -> None:
    path, contents = shard
    random = np.random.default_rng(1)
    for name, place in members(path):
        expected = io.BytesIO(contents[name])
        size = len(contents[name])
        with open_file(place) as file:
            for _ in range(40):
                whence = int(random.integers(3))
                start = (0, expected.tell(), size)[whence]
                offset = int(random.integers(-start, size - start + 20))
                assert file.seek(offset, whence) == expected.seek(offset, whence) == file.tell()
                length = int(random.choice([1, 100, 5000, size, 2 * READ_AHEAD]))
                assert file.read(length) == expected.read(length)
            with pytest.raises(OSError, match="Invalid argument"):
                file.seek(-size - 1, os.SEEK_END)


def test_member_of_a_tar_that_is_cut_off_ends_there(shard: tuple[Path, dict[str, bytes]], tmp_path: Path) -> None:
    path, contents = shard
    *_, (name, place) = members(path)
    member = member_of(place)
    assert member
    (tmp_path / "cut.tar").write_bytes(path.read_bytes()[: member.offset + 1000])
    with open_file(str(member._replace(tar=str(tmp_path / "cut.tar")))) as file:
        assert file.read() == contents[name][:1000]


def test_closing_a_member_closes_the_tar(shard: tuple[Path, dict[str, bytes]]) -> None:
    descriptors = set(os.listdir("/proc/self/fd"))
    files = [open_file(place) for _, place in members(shard[0])]
    assert len(os.listdir("/proc/self/fd")) == len(descriptors) + len(files)
    for file in files:
        file.close()
    assert set(os.listdir("/proc/self/fd")) == descriptors


def test_a_clip_that_is_read_is_closed(tmp_path: Path) -> None:
    write_clip(tmp_path / "x.mp4")
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        tar.add(tmp_path / "x.mp4", "x.mp4")
    ((_, place),) = members(tmp_path / "x.tar")
    descriptors = set(os.listdir("/proc/self/fd"))
    for each in (str(tmp_path / "x.mp4"), place):
        read_frames(each, [0, 5], centred(64, 64, 64, 64))
        read_audio(each, each, 2, 4)
        with pytest.raises(ClipError):
            read_frames(each, [1000], centred(64, 64, 64, 64))
        assert set(os.listdir("/proc/self/fd")) == descriptors


def write_clip(path: Path) -> None:
    pictures = np.random.default_rng(0).integers(0, 255, (32, 64, 64, 3), np.uint8)
    sound = (0.3 * np.sin(0.1 * np.arange(2 * SAMPLE_RATE))).astype(np.float32)
    write_video(path, pictures, 16, sound, preset="ultrafast")


class _Bucket(BaseHTTPRequestHandler):
    """GET and HEAD of whole objects and ranges, as S3 has them."""

    folder: Path
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self.answer(False)

    def do_GET(self) -> None:
        self.answer(True)

    def answer(self, with_body: bool) -> None:
        path = self.folder / self.path.lstrip("/").split("?")[0]
        content = path.read_bytes() if path.is_file() else b""
        first, last = 0, len(content) - 1
        if "Range" in self.headers:
            first, last = (int(number) for number in self.headers["Range"].removeprefix("bytes=").split("-"))
            last = min(last, len(content) - 1)
        self.send_response((206 if "Range" in self.headers else 200) if path.is_file() else 404)
        self.send_header("Content-Length", str(last + 1 - first))
        self.send_header("Content-Range", f"bytes {first}-{last}/{len(content)}")
        self.end_headers()
        if with_body:
            self.wfile.write(content[first : last + 1])

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder behind s3://bucket/."""
    handler = type("Handler", (_Bucket,), {"folder": tmp_path})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "nothing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    _file_system.cache_clear()
    (tmp_path / "bucket").mkdir()
    yield tmp_path / "bucket"
    _file_system.cache_clear()
    server.shutdown()
    thread.join()
    server.server_close()


def test_clip_in_an_object_store(bucket: Path) -> None:
    write_clip(bucket / "x.mp4")
    with tarfile.open(bucket / "shard.tar", "w") as tar:
        for name in ("first", "x"):
            tar.add(bucket / "x.mp4", f"{name}.mp4")
    places = dict(members(bucket / "shard.tar"))
    plain, framing = str(bucket / "x.mp4"), centred(64, 64, 64, 64)
    for place in ("s3://bucket/x.mp4", places["x.mp4"].replace(str(bucket), "s3://bucket")):
        with open_file(place) as file:
            assert file.read() == (bucket / "x.mp4").read_bytes()
        np.testing.assert_array_equal(read_frames(place, range(10, 32), framing), read_frames(plain, range(10, 32), framing))
        np.testing.assert_array_equal(read_audio(place, place), read_audio(plain, plain))


def test_what_an_object_store_does_not_have(bucket: Path) -> None:
    (bucket / "empty.mp4").touch()
    (bucket / "text.mp4").write_text("no video" * 1000)
    for place, reason in (("s3://bucket/empty.mp4", "the file is empty"), ("s3://bucket/text.mp4", "not a media file")):
        with pytest.raises(ClipError, match=reason), open_media(place):
            pass
    with pytest.raises(FileNotFoundError), open_media("s3://bucket/gone.mp4"):
        pass
