"""The size of the store as it is told, against what the encoders and the store really make."""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ray_s2v.data.encode import _decoded, _saved, wanted_features
from ray_s2v.data.features import KINDS, FeatureKind, Features
from ray_s2v.data.plan import Plan
from ray_s2v.data.rows import to_table
from ray_s2v.data.stages import EncodeText, EncodeVideo, EncodeWholeSpeech, Stage
from ray_s2v.data.store import save, stored_keys
from ray_s2v.demo.clips import Recording, write_clip
from ray_s2v.demo.encoder_weights import save_encoders
from ray_s2v.demo.faces import random_look
from ray_s2v.reporting.store import expected_bytes, size, store_table
from ray_s2v.schema import Bucket, Clip, Media
from tests.plans import clip, job

NUM_FRAMES = 144  # of the clip, at 16 a second
CAPTIONS = ("a face that speaks", "a face that speaks and speaks " * 20)
STEPS, WINDOWS = (0, 2), 4  # of the plan below: either clip, first and continued
UNITS = {"B": 1.0, "kB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12}
FILE = (500, 2500)  # bytes of a file beside its arrays


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sizes")
    save_encoders(folder, CAPTIONS)
    draw = np.random.default_rng(0)
    write_clip(folder / "clip.mp4", random_look(draw), Recording(96, 64, 25, 44100, NUM_FRAMES / 16), draw)
    return folder


def plan_of(folder: Path, **changes: Any) -> Plan:
    """Windows of two clips of one file, which is the pose of the first as well."""
    video = Media(str(folder / "clip.mp4"), "of the clip")
    facts: dict[str, Any] = {"video": video, "audio": video, "captions": CAPTIONS}
    clips: list[Clip] = [
        clip("a", NUM_FRAMES, Bucket(64, 64, 16), pose=video, **facts | changes),
        clip("b", NUM_FRAMES, Bucket(64, 64, 16), **facts | changes),
    ]
    return Plan.of(job(slots=2, seed=2), clips)


@pytest.fixture(scope="module", params=["fp16", "fp32"])
def stages(folder: Path, request: pytest.FixtureRequest) -> dict[FeatureKind, Stage]:
    return {
        "video": EncodeVideo(request.param, path=str(folder / "vae")),
        "speech": EncodeWholeSpeech(request.param, path=speech_place(folder)),
        "text": EncodeText(request.param, path=text_place(folder), tokenizer=str(folder / "tokenizer")),
    }


def speech_place(folder: Path) -> str:
    return str(folder / "wav2vec2-large-xlsr-53-english")


def text_place(folder: Path) -> str:
    return str(folder / "text_encoder")


def features(store: Path, dtype: str = "fp16") -> Features:
    return Features(str(store), streams=True, vae="vae", speech="speech", text="text", dtype=dtype)


def fill(store: Path, kind: FeatureKind, rows: dict[str, Any], stages: dict[FeatureKind, Stage]) -> None:
    for key, row in rows.items():
        (outcome,) = _saved(str(store), kind, stages[kind](_decoded(kind, to_table({"key": key, **row})))).to_pylist()
        assert outcome["error"] == ""


def test_expected_bytes_are_those_of_the_files(folder: Path, tmp_path: Path, stages: dict[FeatureKind, Stage]) -> None:
    described = features(tmp_path, stages["video"].dtype)
    wanted = wanted_features(plan_of(folder).rows(*STEPS), described)
    assert {(row["kind"], bool(row["pose"])) for row in wanted.rows["video"].values()} == {
        (kind, pose) for kind in ("first", "continuation") for pose in (False, True)
    }
    for kind in KINDS:
        fill(tmp_path, kind, wanted.rows[kind], stages)
        sizes = stored_keys(str(tmp_path), kind)
        assert sizes.keys() == wanted.rows[kind].keys()
        for key, row in wanted.rows[kind].items():
            expected = expected_bytes(kind, row, described, speech_place(folder), text_place(folder))
            if kind == "text":
                assert sizes[key] / 2 < expected < 2 * sizes[key]
            else:
                assert FILE[0] < sizes[key] - expected < FILE[1]


def test_zeros_of_silent_clips_are_half_precision_whatever_is_said(folder: Path, tmp_path: Path, stages: dict[FeatureKind, Stage]) -> None:
    described = features(tmp_path, stages["video"].dtype)
    rows = wanted_features(plan_of(folder, audio=None, audio_s=0.0).rows(*STEPS), described).rows["speech"]
    fill(tmp_path, "speech", rows, stages)
    ((key, row),) = rows.items()
    expected = expected_bytes("speech", row, described, speech_place(folder), text_place(folder))
    assert FILE[0] < stored_keys(str(tmp_path), "speech")[key] - expected < FILE[1]


FIGURES = re.compile(
    r"  (?P<kind>\w+) +(?P<number>\d+) (?P<things>\w+) +(?P<there>\d+) there, +(?P<held>\S+ \w?B)"
    r" +(?P<missing>\d+) missing, +(?P<more>\S+ \w?B)"
)


def put(store: Path, kind: FeatureKind, keys: Iterable[str]) -> None:
    """Something, each time of another size."""
    for number, key in enumerate(keys):
        save(str(store), kind, key, [{"latents": np.zeros(1000 * number, np.float16)}])


def number_of(told: str) -> float:
    number, unit = told.split()
    return float(number) * UNITS[unit]


def figures(table: str) -> dict[str, dict[str, str]]:
    return {found["kind"]: found.groupdict() for line in table.splitlines() if (found := FIGURES.fullmatch(line))}


def test_table_of_what_is_there_and_what_is_missing(folder: Path, tmp_path: Path) -> None:
    """Of an empty store, of one with all sounds and some windows, and of one that lacks nothing."""
    plan, described = plan_of(folder), features(tmp_path)
    places = speech_place(folder), text_place(folder)

    def table() -> str:
        return store_table(wanted_features(plan.rows(*STEPS), described), described, *places)

    wanted = wanted_features(plan.rows(*STEPS), described)
    number = {kind: len(wanted.rows[kind]) for kind in KINDS}
    assert number["text"] == 2
    assert number["speech"] == 1, "both clips have the same"
    assert number["video"] == WINDOWS
    expected = {kind: sum(expected_bytes(kind, row, described, *places) for row in wanted.rows[kind].values()) for kind in KINDS}

    told = table()
    assert told.splitlines()[0] == f"store {tmp_path}, {described.dtype}:"
    found = figures(told)
    assert [(kind, found[kind]["things"]) for kind in found] == [("text", "captions"), ("speech", "sounds"), ("video", "windows")]
    for kind in KINDS:
        assert (found[kind]["there"], found[kind]["held"]) == ("0", "0 B")
        assert found[kind]["number"] == found[kind]["missing"] == str(number[kind])
        assert number_of(found[kind]["more"]) == pytest.approx(expected[kind], rel=5e-3)
    last = told.splitlines()[-1]
    assert last.startswith("  `python -m ray_s2v.encode` would add ")
    assert number_of(last.split("would add ")[1]) == pytest.approx(sum(expected.values()), rel=5e-3)

    some = list(wanted.rows["video"])[:3]
    put(tmp_path, "speech", wanted.rows["speech"])
    put(tmp_path, "video", some)
    put(tmp_path, "video", ["f" * 32])  # as other runs that share the store leave it; it is none of this one's
    found = figures(table())
    assert [(found[kind]["there"], found[kind]["missing"]) for kind in KINDS] == [("0", "2"), ("1", "0"), ("3", "1")]
    for kind in ("speech", "video"):
        held = sum(size for key, size in stored_keys(str(tmp_path), kind).items() if key in wanted.rows[kind])
        assert number_of(found[kind]["held"]) == pytest.approx(held, rel=5e-3)
    rest = [expected_bytes("video", row, described, *places) for key, row in wanted.rows["video"].items() if key not in some]
    assert number_of(found["video"]["more"]) == pytest.approx(sum(rest), rel=5e-3)
    assert found["speech"]["more"] == "0 B"

    for kind in KINDS:
        put(tmp_path, kind, wanted.rows[kind])
    told = table()
    assert "would add" not in told
    assert all(figures(told)[kind]["missing"] == "0" for kind in KINDS)
    assert all(len(line) <= 120 for line in told.splitlines()[1:])


@pytest.mark.parametrize(
    ("num_bytes", "told"),
    [
        (0, "0 B"),
        (1, "1 B"),
        (999, "999 B"),
        (999.4, "999 B"),
        (999.5, "1 kB"),
        (1000, "1 kB"),
        (1024, "1.02 kB"),
        (123_456, "123 kB"),
        (999_499, "999 kB"),
        (999_500, "1 MB"),
        (999_999, "1 MB"),
        (1.2e9, "1.2 GB"),
        (999.6e9, "1 TB"),
        (12.3e12, "12.3 TB"),
    ],
)
def test_size(num_bytes: float, told: str) -> None:
    assert size(num_bytes) == told


@settings(deadline=None, database=None, derandomize=True)
@given(st.floats(min_value=1, max_value=9e14))
def test_size_is_right_to_three_digits_and_never_an_exponent(num_bytes: float) -> None:
    assert "e" not in size(num_bytes)
    assert number_of(size(num_bytes)) == pytest.approx(num_bytes, rel=5.1e-3)
