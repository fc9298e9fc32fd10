"""The same clips from a folder, tars, a Parquet manifest and S3: the same plan, the same keys and the same pixels and sound."""

import io
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray

from ray_s2v.config.job import Data
from ray_s2v.data.decode import decoded_sound, decoded_video
from ray_s2v.data.discover import Discovery, discover
from ray_s2v.data.features import KINDS, Features
from ray_s2v.data.plan import Plan
from ray_s2v.schema import PlanRow
from tests.plans import job
from tests.s3 import s3_server, upload

KINDS_OF_SOURCE = ("folder", "tars", "parquet", "s3 folder", "s3 tars", "s3 parquet")
FEATURES = Features("", True, "vae", "speech", "text", "fp16")
NUM_STEPS = 6
PLACES = {"video", "audio", "pose"}  # where files lie is all that may differ


@dataclass(frozen=True)
class Given:
    """What a source of some kind comes to."""

    discovery: Discovery
    plan: Plan
    rows: list[PlanRow]


@pytest.fixture(scope="module")
def sources(demo_files: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Places of the demo's clips, bad ones included, by kind of source."""
    root, clips = tmp_path_factory.mktemp("sources"), demo_files / "clips"
    (root / "shards").mkdir()
    names = sorted(path.stem for path in clips.glob("*.mp4"))
    for shard in range(3):
        with tarfile.open(root / "shards" / f"part-{shard}.tar", "w") as tar:
            for name in names[shard::3]:
                for file in sorted(clips.glob(f"{name}.*")):
                    tar.add(file, file.name)
    captions = [_caption(clips / f"{name}.txt") for name in names]
    table = pa.table({"video": [f"{name}.mp4" for name in names], "caption": captions})
    with s3_server() as system:
        upload(system, clips, "bucket/clips")
        upload(system, root / "shards", "bucket/shards")
        for place in ("clips.parquet",):
            buffer = io.BytesIO()
            pq.write_table(table, buffer)
            with system.open_output_stream(f"bucket/clips/{place}") as file:
                file.write(buffer.getvalue())
        beside = root / "beside"
        beside.mkdir()
        for file in clips.iterdir():
            (beside / file.name).symlink_to(file)
        pq.write_table(table, beside / "clips.parquet")
        yield {
            "folder": str(clips),
            "tars": str(root / "shards"),
            "parquet": str(beside / "clips.parquet"),
            "s3 folder": "s3://bucket/clips",
            "s3 tars": "s3://bucket/shards",
            "s3 parquet": "s3://bucket/clips/clips.parquet",
        }


def _caption(file: Path) -> str:
    return file.read_text() if file.exists() else ""


@pytest.fixture(scope="module")
def given(sources: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Given]]:
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    found = {}
    for kind, place in sources.items():
        source = {"path": place, "name": "clips", "resolution": 80, "resolution_type": "pixel_area", "num_frames": 16, "crop": "random"}
        settings = job(slots=4, sources=[source])
        discovery = discover(Data(**settings.data.model_dump()), str(tmp_path_factory.mktemp("store")), print)
        plan = Plan.of(settings, discovery.clips)
        found[kind] = Given(discovery, plan, list(plan.rows(0, NUM_STEPS)))
    yield found
    ray.shutdown()


@pytest.mark.parametrize("kind", KINDS_OF_SOURCE[1:])
def test_plan_and_keys_are_the_folders(given: dict[str, Given], kind: str) -> None:
    folder, other = given["folder"], given[kind]
    assert len(other.discovery.clips) == 24
    assert other.plan.fingerprint() == folder.plan.fingerprint()
    assert len(other.rows) == len(folder.rows) == NUM_STEPS * 4
    for a, b in zip(other.rows, folder.rows, strict=True):
        assert a["video"] != b["video"]
        assert {name: value for name, value in a.items() if name not in PLACES} == {n: v for n, v in b.items() if n not in PLACES}
        for feature in KINDS:
            assert FEATURES.key(feature, a) == FEATURES.key(feature, b)


@pytest.mark.parametrize("kind", KINDS_OF_SOURCE[1:])
def test_bad_clips_are_rejected_everywhere(given: dict[str, Given], kind: str) -> None:
    """For the same reasons; a missing caption is told in the words of its kind of source."""
    folder, other = (
        {name: clip.reason for clip in given[k].discovery.rejected for name in [Path(clip.path).name] if "no_caption" not in name}
        for k in ("folder", kind)
    )
    assert len(folder) == 6
    assert other == folder
    assert any("no_caption" in clip.path for clip in given[kind].discovery.rejected)


@pytest.mark.parametrize("kind", KINDS_OF_SOURCE[1:])
def test_pixels_and_sound_are_the_folders(given: dict[str, Given], kind: str) -> None:
    for a, b in list(zip(given[kind].rows, given["folder"].rows, strict=True))[::5]:
        for decode in (decoded_video, decoded_sound):
            found, expected = decode(a), decode(b)
            assert found.keys() == expected.keys()
            assert all(np.array_equal(found[name], expected[name]) for name in expected)
            assert not any(found[name] for name in expected if name.endswith("_error"))
