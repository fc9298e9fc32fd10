"""The same clips wherever they lie, what is taken again from the manifest, and what is told of the rejected. Nothing starts Ray."""

import csv
import io
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray
from pyarrow import fs

from ray_s2v.config.job import Data
from ray_s2v.config.source import Source
from ray_s2v.data.discover import Discovery, check_rejected, discover, rejected_csv
from ray_s2v.data.facts import Facts, examine
from ray_s2v.data.found import Rejected
from ray_s2v.data.manifest import manifest_place, write_manifest
from ray_s2v.data.sources import find
from ray_s2v.schema import Bucket, Clip, ConfigError, DataError, Media
from ray_s2v.storage import scheme_of
from tests.clips import members_of, source, tone, write_clip, write_tar, write_wav
from tests.s3 import s3_server, upload

NAMES = ["deep/two.mp4", "one.mp4", "voiced.mp4"]


@pytest.fixture(scope="module")
def bucket() -> Iterator[fs.S3FileSystem]:
    with s3_server() as system:
        yield system


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Clips with captions, a broken one, and one with its voice in another file."""
    root = tmp_path_factory.mktemp("discover") / "faces"
    write_clip(root / "one.mp4", seed=1)
    write_clip(root / "deep/two.mp4", seed=2, width=96)
    write_clip(root / "voiced.mp4", seed=3)
    (root / "bad.mp4").write_text("no video")
    for name, text in {"one": "a face\nanother caption", "deep/two": "zwei 顔", "voiced": "three", "bad": "bad"}.items():
        (root / f"{name}.txt").write_text(text, encoding="utf-8")
    return root


@pytest.fixture(scope="module")
def facts(faces: Path) -> dict[str, Facts]:
    """What the folder's clips are."""
    return examined(source(faces))


def examined(place: Source) -> dict[str, Facts]:
    """The facts of all clips; of usable ones with their captions, wherever those are from."""
    found, rejected = find(place)
    assert rejected == []
    known = {clip.name: (clip, examine(clip)) for clip in found}
    return {name: facts if facts.reason else facts._replace(captions=clip.words or facts.captions) for name, (clip, facts) in known.items()}


def manifest_columns(faces: Path) -> dict[str, Any]:
    names = sorted(path.relative_to(faces).as_posix() for path in faces.rglob("*.mp4"))
    captions = [(faces / name).with_suffix(".txt").read_text(encoding="utf-8").splitlines() for name in names]
    return {"video": names, "caption": captions}


def fill(store: str, place: Source) -> None:
    """Writes the manifest of a source as examining on the cluster does."""
    write_manifest(store, place.called(), [(clip, examine(clip)) for clip in find(place)[0]])


def found_again(store: Path | str, *sources: Source) -> Discovery:
    """Everything is known, so Ray is not needed."""
    notes: list[str] = []
    discovery = discover(Data(sources=list(sources)), str(store), notes.append)
    assert notes == []
    assert not ray.is_initialized()
    return discovery


def test_facts_of_the_folder(facts: dict[str, Facts]) -> None:
    assert list(facts) == ["bad.mp4", *NAMES]
    assert facts["bad.mp4"] == Facts("not a media file, or its header is cut off")
    assert facts["one.mp4"].captions == ("a face", "another caption")
    assert all(facts[name].reason == "" for name in NAMES)


def test_tar_holds_the_same_clips(faces: Path, facts: dict[str, Facts], tmp_path: Path) -> None:
    write_tar(tmp_path / "faces.tar", members_of(faces))
    assert examined(source(tmp_path / "faces.tar")) == facts
    for shard, is_deep in (("0", False), ("1", True)):
        write_tar(tmp_path / f"shards/{shard}.tar", [member for member in members_of(faces) if member[0].startswith("deep/") is is_deep])
    assert examined(source(tmp_path / "shards")) == facts


def test_manifests_name_the_same_clips(faces: Path, facts: dict[str, Facts], tmp_path: Path) -> None:
    shutil.copytree(faces, tmp_path / "faces")
    columns = manifest_columns(faces)
    pq.write_table(pa.table(columns), tmp_path / "faces/clips.parquet")
    assert examined(source(tmp_path / "faces/clips.parquet")) == facts
    with open(tmp_path / "faces/clips.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["caption", "video"], *zip(("\n".join(c) for c in columns["caption"]), columns["video"], strict=True)])
    joined = {name: known._replace(captions=("\n".join(known.captions),)) if known.captions else known for name, known in facts.items()}
    assert examined(source(tmp_path / "faces/clips.csv")) == joined
    assert examined(source(tmp_path / "faces/clips.csv", caption="textfile")) == facts


def test_s3_holds_the_same_clips(faces: Path, facts: dict[str, Facts], tmp_path: Path, bucket: fs.S3FileSystem) -> None:
    root = tmp_path / "all"
    shutil.copytree(faces, root / "faces")
    (root / "faces/.hidden").mkdir()
    shutil.copy(faces / "one.mp4", root / "faces/.hidden/x.mp4")
    write_tar(root / "shards/faces.tar", members_of(faces))
    columns = manifest_columns(faces)
    absolute = columns | {"video": [f"s3://data/all/faces/{name}" for name in columns["video"]]}
    (root / "tables").mkdir()
    pq.write_table(pa.table(columns), root / "faces/clips.parquet")
    pq.write_table(pa.table(absolute), root / "tables/0.parquet")
    upload(bucket, root, "data/all")
    for path in ("faces", "shards", "shards/faces.tar", "faces/clips.parquet"):
        assert examined(source(f"s3://data/all/{path}")) == facts, path
        assert examined(source(f"s3://data/all/{path}/")) == facts, path
    assert examined(source("s3://data/all/tables")) == {f"data/all/faces/{name}": known for name, known in facts.items()}
    assert all(scheme_of(part.place) for clip in find(source("s3://data/all/faces"))[0] for part in clip.parts if part)


def test_sounds_of_s3_go_with_a_folder_here(faces: Path, tmp_path: Path, bucket: fs.S3FileSystem) -> None:
    write_wav(tmp_path / "voices/deep/two.wav", tone(24_000, 220))
    upload(bucket, tmp_path / "voices", "voices")
    found, _ = find(source(faces / "deep", name="x", audio_path="s3://voices/deep"))
    (known,) = [examine(clip) for clip in found]
    assert known.sound
    assert known.sound.end_s == 1.5
    assert examined(source(faces / "deep"))["two.mp4"].audio_digest != known.audio_digest


def test_remote_place_that_is_not_there_is_named(bucket: fs.S3FileSystem) -> None:
    bucket.create_dir("empty")
    for path in ("s3://empty/nowhere", "s3://empty/nowhere.tar", "s3://nowhere/x"):
        with pytest.raises(ConfigError) as caught:
            find(source(path))
        assert str(caught.value) == f"data.sources: {path}: no such file or folder"


def test_stamp_of_a_remote_file_is_its_time(bucket: fs.S3FileSystem) -> None:
    bucket.create_dir("stamps")
    for name in ("a.mp4", "a.txt"):
        with bucket.open_output_stream(f"stamps/{name}") as file:
            file.write(b"x")
    ((clip,), _) = find(source("s3://stamps"))
    info = bucket.get_file_info("stamps/a.mp4")
    assert clip.video == ("s3://stamps/a.mp4", 1, info.mtime_ns)
    assert info.mtime_ns > 1_700_000_000 * 10**9


def test_store_may_be_remote(faces: Path, bucket: fs.S3FileSystem) -> None:
    bucket.create_dir("store")
    fill("s3://store/run 1", source(faces))
    assert bucket.get_file_info("store/run 1/manifest/faces.parquet").is_file
    assert found_again("s3://store/run 1", source(faces)).num_reused == 4


def test_discovery_of_what_is_known(faces: Path, facts: dict[str, Facts], tmp_path: Path) -> None:
    held_out = source(faces / "deep", name="eval", is_eval=True)
    for place in (source(faces), held_out):
        fill(str(tmp_path), place)
    discovery = found_again(tmp_path, held_out, source(faces))
    assert [clip.clip_id for clip in discovery.clips] == [f"faces/{name}" for name in NAMES]
    assert [clip.clip_id for clip in discovery.held_out] == ["eval/two.mp4"]
    assert discovery.rejected == [Rejected(f"{faces}/bad.mp4", "not a media file, or its header is cut off")]
    assert discovery.num_reused == 5
    media = Media(f"{faces}/one.mp4", facts["one.mp4"].video_digest)
    sound = facts["one.mp4"].sound
    assert sound
    assert discovery.clips[1] == Clip(
        "faces/one.mp4", "faces", media, media, None, ("a face", "another caption"), 24, sound.end_s, Bucket(64, 64, 16), 64, 64
    )


def test_ids_are_the_same_wherever_the_folder_lies(faces: Path, tmp_path: Path) -> None:
    shutil.copytree(faces, tmp_path / "faces")
    ids = []
    for place in (source(faces), source(f"{tmp_path}/faces/"), source(f"{tmp_path}/../{tmp_path.name}/faces")):
        fill(str(tmp_path), place)
        ids.append([clip.clip_id for clip in found_again(tmp_path, place).clips])
    assert ids == [[f"faces/{name}" for name in NAMES]] * 3


def test_facts_are_taken_from_the_manifest_and_options_from_the_job(faces: Path, tmp_path: Path) -> None:
    fill(str(tmp_path), source(faces))
    place = manifest_place(str(tmp_path), "faces")
    table = pq.read_table(place)
    number = table.schema.get_field_index("pictures.num_frames")
    edited = pa.array([None if frames is None else frames + 100 for frames in table["pictures.num_frames"].to_pylist()])
    pq.write_table(table.set_column(number, table.schema.field(number), edited), place)
    assert [clip.num_frames for clip in found_again(tmp_path, source(faces)).clips] == [124] * 3
    assert [clip.bucket for clip in found_again(tmp_path, source(faces, num_frames=120)).clips] == [Bucket(64, 64, 120)] * 3
    assert found_again(tmp_path, source(faces, max_frames=100)).clips == []


def test_what_is_gone_is_forgotten(faces: Path, tmp_path: Path) -> None:
    shutil.copytree(faces, tmp_path / "faces")
    place = source(tmp_path / "faces")
    fill(str(tmp_path), place)
    (tmp_path / "faces/one.mp4").unlink()
    assert [clip.clip_id for clip in found_again(tmp_path, place).clips] == ["faces/deep/two.mp4", "faces/voiced.mp4"]
    assert sorted(pq.read_table(manifest_place(str(tmp_path), "faces"))["name"].to_pylist()) == ["bad.mp4", "deep/two.mp4", "voiced.mp4"]


def test_nothing_is_written_where_nothing_changed(faces: Path, tmp_path: Path) -> None:
    fill(str(tmp_path), source(faces))
    before = Path(manifest_place(str(tmp_path), "faces")).stat()
    found_again(tmp_path, source(faces))
    after = Path(manifest_place(str(tmp_path), "faces")).stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)


def test_copies_within_a_source_are_refused(faces: Path, tmp_path: Path) -> None:
    shutil.copytree(faces, tmp_path / "faces")
    shutil.copy(faces / "one.mp4", tmp_path / "faces/copy.mp4")
    (tmp_path / "faces/copy.txt").write_text("another caption")
    place = source(tmp_path / "faces")
    fill(str(tmp_path), place)
    discovery = found_again(tmp_path, place)
    assert [clip.clip_id for clip in discovery.clips] == ["faces/copy.mp4", "faces/deep/two.mp4", "faces/voiced.mp4"]
    assert discovery.rejected[1:] == [Rejected(f"{tmp_path}/faces/one.mp4", "the same content as faces/copy.mp4")]


def test_copies_of_what_is_refused_may_stay(faces: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        shutil.copy(faces / "one.mp4", tmp_path / f"{name}.mp4")
    (tmp_path / "a.txt").touch()
    (tmp_path / "b.txt").write_text("b")
    place = source(tmp_path, name="x")
    fill(str(tmp_path / "store"), place)
    assert [clip.clip_id for clip in found_again(tmp_path / "store", place).clips] == ["x/b.mp4"]


def test_one_folder_may_be_two_sources(faces: Path, tmp_path: Path) -> None:
    sources = [source(faces), source(faces, name="again", resolution="128x128")]
    for place in sources:
        fill(str(tmp_path), place)
    clips = found_again(tmp_path, *sources).clips
    assert [clip.clip_id for clip in clips] == [f"{name}/{clip}" for name in ("faces", "again") for clip in NAMES]


def test_sound_that_is_a_little_apart_is_reported(tmp_path: Path) -> None:
    for name, seconds in {"a": 1.5, "b": 1.2, "c": 2.1, "d": 1.35}.items():
        write_clip(tmp_path / f"{name}.mp4", sound=tone(4, peak=0.5))
        write_wav(tmp_path / f"{name}.wav", tone(int(16_000 * seconds), hertz=440 + 1000 * seconds))
        (tmp_path / f"{name}.txt").write_text(name)
    place = source(tmp_path, name="x", audio_path=str(tmp_path))
    fill(str(tmp_path / "store"), place)
    discovery = found_again(tmp_path / "store", place)
    assert len(discovery.clips) == 4
    assert (discovery.num_mismatched, discovery.worst_mismatch) == (2, "x/c.mp4")
    assert discovery.worst_mismatch_s == pytest.approx(0.6, abs=1e-3)


def test_source_without_a_clip_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        discover(Data(sources=[source(tmp_path)]), str(tmp_path / "store"), print)
    assert str(caught.value) == f"data.sources: {tmp_path}: no clips in it"


def clip(name: str) -> Clip:
    media = Media(f"/data/{name}", name)
    return Clip(name, "data", media, media, None, ("a caption",), 24, 1.5, Bucket(64, 64, 16), 64, 64)


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
