"""Examining on a cluster: a new folder, one that changed, a disk that fails."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray
import ray.data

from ray_s2v.config.job import Data
from ray_s2v.data import discover as discovery
from ray_s2v.data.discover import Discovery, discover
from ray_s2v.data.found import Rejected
from ray_s2v.data.manifest import read_manifest
from ray_s2v.schema import DataError
from tests.clips import NUM_FRAMES, source, write_clip

NUM_CLIPS = 20  # more than one task examines


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.fixture
def faces(tmp_path: Path) -> Path:
    """Clips that differ in what follows their end alone, and two that cannot be used."""
    root = tmp_path / "faces"
    write_clip(root / "00.mp4")
    whole = (root / "00.mp4").read_bytes()
    for number in range(NUM_CLIPS):
        (root / f"{number:02}.mp4").write_bytes(whole + b"\0\0\0\x0cfree" + number.to_bytes(4))
        (root / f"{number:02}.txt").write_text(f"face {number}")
    (root / "text.mp4").write_text("no video")
    (root / "text.txt").write_text("text")
    shutil.copy(root / "00.mp4", root / "uncaptioned.mp4")
    return root


def run(faces: Path, num_reused: int) -> Discovery:
    """Everything that is there, in order, with its captions; of so many clips all was known."""
    notes: list[str] = []
    found = discover(Data(sources=[source(faces)]), str(faces.parent / "store"), notes.append)
    assert notes == []
    assert [clip.clip_id for clip in found.clips] == sorted(f"faces/{path.stem}.mp4" for path in faces.glob("[0-9]*.mp4"))
    assert all(clip.captions == (Path(clip.video.place).with_suffix(".txt").read_text(),) for clip in found.clips)
    assert found.rejected == [
        Rejected(f"{faces}/text.mp4", "not a media file, or its header is cut off"),
        Rejected(f"{faces}/uncaptioned.mp4", "no caption: uncaptioned.txt is not there"),
    ]
    assert found.num_reused == num_reused
    return found


def test_only_what_is_new_or_changed_is_examined(faces: Path) -> None:
    before = ray.data.DataContext.get_current().target_max_block_size
    first = run(faces, num_reused=0)
    assert len({clip.video.digest for clip in first.clips}) == NUM_CLIPS
    assert run(faces, num_reused=NUM_CLIPS + 1) == Discovery(**{**vars(first), "num_reused": NUM_CLIPS + 1})
    write_clip(faces / "20.mp4", seed=1)
    (faces / "20.txt").write_text("new")
    (faces / "03.txt").write_text("another caption")
    write_clip(faces / "05.mp4", num_frames=2 * NUM_FRAMES, seed=2)
    changed = run(faces, num_reused=NUM_CLIPS + 1 - 2)
    assert [clip.num_frames for clip in changed.clips] == [2 * NUM_FRAMES if number == 5 else NUM_FRAMES for number in range(21)]
    run(faces, num_reused=NUM_CLIPS + 2)
    assert ray.data.DataContext.get_current().target_max_block_size == before


def test_disk_that_fails_is_named_and_nothing_else_is_lost(faces: Path) -> None:
    (faces / "07.mp4").unlink()
    (faces / "07.mp4").symlink_to("/proc/self/mem")
    with pytest.raises(DataError) as caught:
        run(faces, num_reused=0)
    assert str(caught.value) == f"1 of 21 clips could not be read:\n  {faces}/07.mp4: [Errno 5] Input/output error"
    (faces / "07.mp4").unlink()
    shutil.copy(faces / "uncaptioned.mp4", faces / "07.mp4")
    (faces / "00.mp4").unlink()  # whose copy that is
    run(faces, num_reused=NUM_CLIPS - 1)


def test_what_was_examined_is_kept_while_the_rest_goes_on(faces: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a driver leaves it that is killed before the end."""
    monkeypatch.setattr(discovery, "WRITE_EVERY_S", 0.0)
    store = str(faces.parent / "store")
    listing = discovery._Listing.of(source(faces), store, print)
    assert discovery._examine_rest([listing], store, 1.0) == []
    # The first is written at once; after that, not more than a tenth of the time is spent on writing.
    assert read_manifest(store, "faces", print)
