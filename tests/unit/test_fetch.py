"""Features from the store are those that the encoders give beside training, bit for bit. Real tiny encoders, a real clip."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ray_s2v.data.decode import decoded_sound, decoded_video
from ray_s2v.data.encode import _decoded, _saved
from ray_s2v.data.features import KINDS, Features
from ray_s2v.data.fetch import fetched
from ray_s2v.data.plan import Plan
from ray_s2v.data.rows import to_row, to_table
from ray_s2v.data.stages import EncodeSpeech, EncodeText, EncodeVideo, EncodeWholeSpeech, Stage
from ray_s2v.data.store import stored_keys
from ray_s2v.demo.clips import Recording, write_clip
from ray_s2v.demo.encoder_weights import save_encoders
from ray_s2v.demo.faces import random_look
from ray_s2v.encoders.speech import SpeechEncoder, frame_features
from ray_s2v.encoders.text import TextEncoder
from ray_s2v.encoders.vae import VideoEncoder
from ray_s2v.schema import Bucket, Media
from tests.plans import clip, job

ARRAYS = ("latents", "reference", "pose_latents", "speech", "text")
NUM_FRAMES = 144  # of the clip; a continuation of 16 frames needs 13 before it


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fetch")
    save_encoders(folder, ["a face that speaks"])
    draw = np.random.default_rng(0)
    write_clip(folder / "clip.mp4", random_look(draw), Recording(96, 64, 25, 44100, NUM_FRAMES / 16), draw)
    write_clip(folder / "pose.mp4", random_look(draw), Recording(96, 64, 25, 44100, 3.0), draw)
    return folder


@pytest.fixture(scope="module")
def stages(folder: Path) -> dict[str, Stage]:
    speech = str(folder / "wav2vec2-large-xlsr-53-english")
    return {
        "video": EncodeVideo("fp16", path=str(folder / "vae")),
        "speech": EncodeWholeSpeech("fp16", path=speech),
        "window": EncodeSpeech("fp16", path=speech),
        "text": EncodeText("fp16", path=str(folder / "text_encoder"), tokenizer=str(folder / "tokenizer")),
    }


def rows(folder: Path, **changes: Any) -> list[dict[str, Any]]:
    video = Media(str(folder / "clip.mp4"), "of the clip")
    facts = {"video": video, "audio": video, "captions": ("a face that speaks",), "scaled_width": 96} | changes
    clips = [clip(name, NUM_FRAMES, Bucket(64, 64, 16), **facts) for name in "ab"]
    return [dict(row) for row in Plan.of(job(slots=1, sources=[{"crop": "random"}]), clips).rows(0, 6)]


def features(store: Path | str, streams: bool) -> Features:
    return Features(str(store), streams, "vae", "speech", "text", "fp16")


def streamed(row: dict[str, Any], stages: dict[str, Stage], store: Path | str = "") -> dict[str, Any]:
    table = to_table(fetched(row, features(store, streams=True)))
    for kind in ("video", "window", "text"):
        table = stages[kind](table)
    return to_row(table)


def encode(store: Path, given: list[dict[str, Any]], stages: dict[str, Stage]) -> None:
    for kind in KINDS:
        for row in given:
            table = to_table({"key": features(store, True).key(kind, row), **row})
            _saved(str(store), kind, stages[kind](_decoded(kind, table)))


@pytest.mark.parametrize("pose", [False, True])
def test_stored_features_are_the_streamed_ones(folder: Path, tmp_path: Path, stages: dict[str, Stage], pose: bool) -> None:
    given = rows(folder, pose=Media(str(folder / "pose.mp4"), "of the pose") if pose else None)
    assert {row["kind"] for row in given} == {"first", "continuation"}
    encode(tmp_path, given, stages)
    for row in given:
        stored, from_clip = fetched(row, features(tmp_path, streams=False)), streamed(row, stages)
        names = [name for name in ARRAYS if pose or name != "pose_latents"]
        for name in names:
            assert stored[name].dtype == from_clip[name].dtype
            assert np.array_equal(stored[name], from_clip[name]), name
        assert set(stored) & set(ARRAYS) == set(names)
        assert stored["video_error"] == stored["speech_error"] == from_clip["video_error"] == from_clip["speech_error"] == ""
        assert {name: stored[name] for name in row} == row
    assert len(stored_keys(str(tmp_path), "speech")) == 1  # the two clips are one file


def test_features_are_the_encoders_own(folder: Path, stages: dict[str, Stage]) -> None:
    """Against the encoders called by hand, rounded to half precision here."""
    vae, text = VideoEncoder(folder / "vae"), TextEncoder(folder / "text_encoder", folder / "tokenizer")
    speech = SpeechEncoder(folder / "wav2vec2-large-xlsr-53-english")
    pose = Media(str(folder / "pose.mp4"), "of the pose")
    for row in rows(folder, pose=pose):
        found = streamed(row, stages)
        seen = decoded_video(row)
        latents, motion = vae.encode_clip(seen["pixels"], row["kind"], 16, seen["missing_frames"])
        if motion is not None:
            latents = torch.cat([motion, latents], dim=1)
        assert np.array_equal(found["latents"], latents.half().numpy())
        assert np.array_equal(found["reference"], vae.encode(seen["reference_pixels"]).half().numpy())
        assert np.array_equal(found["pose_latents"], vae.encode(seen["pose_pixels"])[:, 1:].half().numpy())
        hidden = speech.hidden_states(decoded_sound(row)["waveform"])
        audio = frame_features(hidden, row["start_frame"], 16).permute(2, 0, 1)
        assert np.array_equal(found["speech"], audio.half().numpy())
        bits = torch.from_numpy(np.array(found["text"])).view(torch.bfloat16)
        assert torch.equal(bits, text.encode(row["caption"]))


def test_pose_past_its_end_is_black(folder: Path) -> None:
    (row, *_) = rows(folder, pose=Media(str(folder / "pose.mp4"), "of the pose"))  # 3 s of pose for 9 s of clip
    row |= {"start_frame": 40, "num_frames": 16}
    pixels = decoded_video(row)["pose_pixels"]
    assert len(pixels) == 17
    assert np.array_equal(pixels[0], pixels[1])
    assert pixels[:9].max() > 0
    assert pixels[9:].max() == 0


def test_clip_without_sound_has_zeros(folder: Path, tmp_path: Path, stages: dict[str, Stage]) -> None:
    given = rows(folder, audio=None, audio_s=0.0)
    encode(tmp_path, given, stages)
    for row in given:
        assert row["drop_audio"]
        for found in (streamed(row, stages), fetched(row, features(tmp_path, streams=False))):
            assert found["speech"].shape == (16, 25, 32)
            assert not found["speech"].any()
            assert found["speech_error"] == ""


def test_only_what_the_store_lacks_is_decoded(folder: Path, tmp_path: Path, stages: dict[str, Stage]) -> None:
    (row, *_) = rows(folder)
    wanted = {"text": "words", "speech": "waveform", "video": "pixels"}
    there: list[str] = []
    for kind in KINDS:
        assert set(wanted.values()) & set(fetched(row, features(tmp_path, streams=True))) == {wanted[k] for k in wanted if k not in there}
        table = to_table({"key": features(tmp_path, True).key(kind, row), **row})
        _saved(str(tmp_path), kind, stages[kind](_decoded(kind, table)))
        there.append(kind)
        half = streamed(row, stages, tmp_path)
        assert all(np.array_equal(half[name], streamed(row, stages)[name]) for name in ("latents", "reference", "speech", "text"))
    (tmp_path / "gone").mkdir()
    row |= {"video": "/nowhere.mp4", "audio": "/nowhere.mp4"}
    assert fetched(row, features(tmp_path, streams=True))["video_error"] == ""


def test_what_is_missing_without_encoders_is_refused_by_name(folder: Path, tmp_path: Path) -> None:
    (row, *_) = rows(folder)
    found = fetched(row, features(tmp_path, streams=False))
    assert set(found) == {"step", "slot", "refusal"}
    assert str(tmp_path) in found["refusal"]
    assert row["clip_id"] in found["refusal"]


def test_damaged_entry_is_refused_by_name(folder: Path, tmp_path: Path, stages: dict[str, Stage]) -> None:
    (row, *_) = rows(folder)
    encode(tmp_path, [row], stages)
    file = next((tmp_path / "features" / "video").rglob("*.parquet"))
    file.write_bytes(file.read_bytes()[:100])
    assert file.name in fetched(row, features(tmp_path, streams=True))["refusal"]


def test_clip_that_cannot_be_decoded_is_stored_with_its_reason(folder: Path, tmp_path: Path, stages: dict[str, Stage]) -> None:
    bad = folder / "bad.mp4"
    bad.write_bytes(b"no video at all")
    given = rows(folder, video=Media(str(bad), "bad"), audio=Media(str(bad), "bad"))
    encode(tmp_path, given, stages)
    for row in given:
        stored, from_clip = fetched(row, features(tmp_path, streams=False)), streamed(row, stages)
        for found in (stored, from_clip):
            assert "not a media file" in found["video_error"]
            assert "not a media file" in found["speech_error"]
        assert all(np.array_equal(stored[name], from_clip[name]) for name in ("latents", "reference", "speech"))


def test_file_that_is_not_there_is_not_stored(folder: Path, tmp_path: Path, stages: dict[str, Stage]) -> None:
    """It may be a network that fails: the next encode tries again."""
    gone = Media(str(folder / "gone.mp4"), "gone")
    (row, *_) = rows(folder, video=gone, audio=gone)
    for kind in ("speech", "video"):
        table = to_table({"key": features(tmp_path, True).key(kind, row), **row})
        (outcome,) = _saved(str(tmp_path), kind, stages[kind](_decoded(kind, table))).to_pylist()
        assert outcome["bytes"] == 0
        assert "gone.mp4" in outcome["error"]
        assert stored_keys(str(tmp_path), kind) == {}


def test_numbers_too_large_for_half_precision_stay_single(stages: dict[str, Stage]) -> None:
    assert stages["video"].packed(torch.tensor([1.0, 65504.0])).dtype == np.float16
    large = stages["video"].packed(torch.tensor([1.0, 70000.0]))
    assert large.dtype == np.float32
    assert large[1] == 70000.0
    assert EncodeVideo.packed(replace_dtype(stages["video"], "fp32"), torch.tensor([1.0])).dtype == np.float32


def replace_dtype(stage: Stage, dtype: str) -> Stage:
    other = object.__new__(type(stage))
    other.__dict__ |= stage.__dict__ | {"dtype": dtype}
    return other


def test_encoder_that_cannot_be_loaded_goes_to_the_workers(folder: Path, tmp_path: Path) -> None:
    (row, *_) = rows(folder)
    stage = EncodeVideo("fp16", path=str(tmp_path))
    table = to_table(fetched(row, features("", streams=True)))
    assert str(tmp_path) in to_row(stage(table))["refusal"]
    later = partial(EncodeText, "fp16", path=str(folder / "text_encoder"), tokenizer=str(folder / "tokenizer"))()
    assert str(tmp_path) in to_row(later(stage(table)))["refusal"]


def test_features_are_where_they_were_with_another_place_of_the_store() -> None:
    assert replace(features("/a", True), store="/b").key("text", {"caption": "x"}) == features("/a", False).key("text", {"caption": "x"})
