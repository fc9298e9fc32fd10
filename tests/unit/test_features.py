"""Keys of features: the same for the same input, others for any other; and how large features are."""

from dataclasses import replace
from typing import Any

import pytest

from ray_s2v.data.features import KINDS, Features, sound_heard, video_bytes, window_in_sound
from ray_s2v.data.plan import Plan
from ray_s2v.schema import Media
from tests.plans import BUCKETS, clip, job, many

FEATURES = Features(store="/store", streams=True, vae="vae", speech="speech", text="text", dtype="fp16")
ROW: dict[str, Any] = dict(next(Plan.of(job(slots=1), [clip("a", 200, BUCKETS[0], pose=Media("/data/pose", "of pose"))]).rows(0, 1)))

# What each kind depends on, and values other than the row's.
WINDOW = {"kind": "other", "start_frame": 1000, "num_frames": 40, "reference_frame": 999}
SIZE = {"scaled_width": 999, "scaled_height": 999, "left": 1, "top": 1, "width": 999, "height": 999}
DEPENDS = {
    "video": {"video_digest": "other", "pose_digest": "other", **WINDOW, **SIZE},
    "speech": {"audio_digest": "other", "audio": "/another/file", "heard_start": 48, "heard_frames": 960, "clip_frames": 201},
    "text": {"caption": "other"},
}


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind in KINDS for name in ROW])
def test_key_changes_with_what_goes_in_and_with_nothing_else(kind: str, name: str) -> None:
    value = DEPENDS[kind].get(name, f"another {name}" if isinstance(ROW[name], str) else ROW[name] + 1)
    changed = FEATURES.key(kind, ROW | {name: value}) != FEATURES.key(kind, ROW)
    if (kind, name) == ("speech", "video"):
        return  # the next test's: it depends on whether they are one file
    assert changed == (name in DEPENDS[kind])


def test_moving_a_file_changes_no_key() -> None:
    moved = ROW | {"video": "s3://bucket/a.mp4", "audio": "s3://bucket/a.mp4", "pose": "s3://bucket/pose.mp4"}
    assert [FEATURES.key(kind, moved) for kind in KINDS] == [FEATURES.key(kind, ROW) for kind in KINDS]


def test_sound_of_its_own_file_has_its_own_clock() -> None:
    assert FEATURES.key("speech", ROW | {"audio": "/a.wav"}) != FEATURES.key("speech", ROW)
    assert FEATURES.key("speech", ROW | {"audio": "/a.wav"}) == FEATURES.key("speech", ROW | {"audio": "/b.wav"})


@pytest.mark.parametrize(
    ("changes", "kinds"),
    [
        ({"vae": "other"}, {"video"}),
        ({"speech": "other"}, {"speech"}),
        ({"text": "other"}, {"text"}),
        ({"dtype": "fp32"}, {"video", "speech"}),
        ({"store": "/elsewhere", "streams": False}, set()),
    ],
)
def test_keys_change_with_the_encoder_and_the_number_type(changes: dict[str, Any], kinds: set[str]) -> None:
    other = replace(FEATURES, **changes)
    assert {kind for kind in KINDS if other.key(kind, ROW) != FEATURES.key(kind, ROW)} == kinds


def test_windows_of_one_sound_share_its_features() -> None:
    rows = list(Plan.of(job(slots=4, continuation=0.0), many(4, 200, BUCKETS[0])).rows(0, 40))
    assert len({FEATURES.key("speech", row) for row in rows}) == 4
    assert len({FEATURES.key("video", row) for row in rows}) > 100
    for row in rows:
        window = window_in_sound(row)
        assert (window.start, window.stop) == (row["start_frame"], row["start_frame"] + 80)
        assert sound_heard(row)[2:] == (0, 0, 200)


def test_window_in_a_part_of_a_long_sound() -> None:
    rows = list(Plan.of(job(slots=2, sources=[{"truncation_mode": "random"}]), many(2, 9600, BUCKETS[0])).rows(0, 50))
    assert any(row["heard_start"] > 0 for row in rows)
    for row in rows:
        window = window_in_sound(row)
        *_, wanted = sound_heard(row)
        assert row["heard_start"] + window.start == row["start_frame"]
        assert window.start >= 0
        assert window.stop <= wanted == row["heard_frames"] <= 120 * 16


def test_clips_without_sound_share_their_zeros() -> None:
    silent = [clip(name, 200, BUCKETS[0], audio=None, audio_s=0.0) for name in "ab"]
    rows = list(Plan.of(job(slots=2), silent).rows(0, 4))
    assert len({FEATURES.key("speech", row) for row in rows}) == 1
    assert [window_in_sound(row) for row in rows] == [slice(0, 80)] * len(rows)


def test_bytes_of_a_window() -> None:
    first = ROW | {"kind": "first", "pose": ""}
    latent = 16 * 60 * 104
    assert video_bytes(first, "fp16") == 2 * latent * (20 + 1)
    assert video_bytes(first, "fp32") == 4 * latent * (20 + 1)
    assert video_bytes(first | {"kind": "continuation"}, "fp16") == 2 * latent * (19 + 20 + 1)
    assert video_bytes(first | {"pose": "/pose"}, "fp16") == 2 * latent * (20 + 1 + 20)
