"""Sound to features against the official wav2vec2 (transformers 4.51) and the official bucketing."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from ray_s2v.encoders.speech import SpeechEncoder, at_feature_rate, frame_features, normalised

TOLERANCE = {"atol": 1e-5, "rtol": 0.0}
# The golden hidden states, of spread 4.5, lie 2e-5 from a float64 run themselves.
HIDDEN_TOLERANCE = {"atol": 3e-5, "rtol": 0.0}
SOUNDS = ["s0.7", "s3.3", "s5.02"]
BUCKETS = [f"n{length}.fps16.clip80" for length in (7, 49, 133, 250, 251, 333, 500, 749)]
CLIP_FRAMES = 80


@pytest.fixture(scope="module")
def case(golden: Path) -> dict[str, Tensor]:
    return load_file(golden / "wav2vec_tiny/case.safetensors")


@pytest.fixture(scope="module")
def encoder(golden: Path, tmp_path_factory: pytest.TempPathFactory) -> SpeechEncoder:
    folder = tmp_path_factory.mktemp("wav2vec")
    shutil.copy(golden / "wav2vec_tiny/config.json", folder)
    weights = load_file(golden / "wav2vec_tiny/weights-00001-of-00001.safetensors")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return SpeechEncoder(folder)


@pytest.fixture(scope="module")
def buckets(golden: Path) -> dict[str, Tensor]:
    return load_file(golden / "audio_bucket.safetensors")


@pytest.fixture(scope="module")
def bucket_facts(golden: Path) -> dict[str, Any]:
    return json.loads((golden / "audio_bucket.json").read_text())


@pytest.mark.parametrize("sound", SOUNDS)
def test_wav2vec_from_waveform_to_frames(encoder: SpeechEncoder, case: dict[str, Tensor], sound: str) -> None:
    waveform, expected = case[f"{sound}.waveform"], case[f"{sound}.audio_input"][0]
    torch.testing.assert_close(normalised(waveform)[None], case[f"{sound}.input_values"], atol=1e-6, rtol=0.0)
    hidden_50hz = encoder.hidden_states(waveform)
    torch.testing.assert_close(hidden_50hz, case[f"{sound}.hidden_50hz"], **HIDDEN_TOLERANCE)
    torch.testing.assert_close(at_feature_rate(hidden_50hz).transpose(1, 2), case[f"{sound}.at_30fps"], **HIDDEN_TOLERANCE)
    torch.testing.assert_close(encoder.encode(waveform, 0, expected.shape[2]), expected, **HIDDEN_TOLERANCE)


def test_no_bucket_is_left_out(bucket_facts: dict[str, Any]) -> None:
    assert sorted(bucket_facts) == sorted(BUCKETS)


@pytest.mark.parametrize("key", BUCKETS)
def test_features_at_30_a_second(buckets: dict[str, Tensor], bucket_facts: dict[str, Any], key: str) -> None:
    length = key.split(".")[0]
    features = at_feature_rate(buckets[f"{length}.hidden_50hz"]).transpose(1, 2)
    assert features.shape[1] == bucket_facts[key]["frames_30fps"]
    torch.testing.assert_close(features, buckets[f"{length}.at_30fps"], **TOLERANCE)


@pytest.mark.parametrize("key", BUCKETS)
def test_frames_as_one_window_and_as_clips(buckets: dict[str, Tensor], bucket_facts: dict[str, Any], key: str) -> None:
    hidden_50hz, expected = buckets[f"{key.split('.')[0]}.hidden_50hz"], buckets[key]
    torch.testing.assert_close(frame_features(hidden_50hz, 0, expected.shape[2]), expected, **TOLERANCE)
    for clip in range(bucket_facts[key]["clips"]):
        start = CLIP_FRAMES * clip
        window = frame_features(hidden_50hz, start, CLIP_FRAMES)
        torch.testing.assert_close(window, expected[:, :, start : start + CLIP_FRAMES], **TOLERANCE)


@pytest.mark.parametrize("key", BUCKETS)
def test_every_frame_takes_the_official_index(bucket_facts: dict[str, Any], key: str) -> None:
    """A ramp of 50 hidden states a second that is 1, 2, 3, .. at 30 a second tells which of them each frame took."""
    index, num_features = torch.tensor(bucket_facts[key]["index_30fps"]), bucket_facts[key]["frames_30fps"]
    num_hidden = int(key.split(".")[0][1:])
    ramp = torch.linspace(1, num_features, num_hidden, dtype=torch.float64)[None, :, None]
    taken = frame_features(ramp, 0, len(index))[0, 0]
    expected = torch.where(index < num_features, index + 1.0, 0.0).double()
    torch.testing.assert_close(taken, expected, atol=1e-9, rtol=0.0)
