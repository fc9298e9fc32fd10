"""Sound and picture of one moment end up in the same latent frame, from the file to the network's inputs.

A clip turns white and clicks at a known time. The picture is followed through decoding and the VAE; the sound through decoding
to energies at Wav2Vec2's own frame positions and then `frame_features`. Random transformer layers would smear the click over
the clip, so that Wav2Vec2's frames lie where they are assumed is shown apart, on the real class.
"""

from collections.abc import Iterator
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import Wav2Vec2Config, Wav2Vec2Model

from ray_s2v.data.decode import decoded_sound, decoded_video
from ray_s2v.demo.encoder_weights import save_vae
from ray_s2v.encoders.speech import frame_features
from ray_s2v.encoders.vae import VideoEncoder
from ray_s2v.media.write import write_video
from ray_s2v.schema import FRAME_RATE, FRAMES_PER_LATENT

HOP, SEEN = 320, 400  # samples between two frames of Wav2Vec2, and that one sees
NUM_FRAMES, LENGTH_S, SOUND_RATE = 24, 8, 48_000
RATES = {"24": Fraction(24), "25": Fraction(25), "29.97": Fraction(30000, 1001), "variable": None}


def picture_times(rate: Fraction | None) -> list[Fraction]:
    if rate:
        return [i / rate for i in range(int(LENGTH_S * rate))]
    gaps = np.random.default_rng(0).choice([Fraction(1, 60), Fraction(1, 30), Fraction(1, 20), Fraction(1, 24)], 400)
    times = [Fraction(0), *np.cumsum(gaps)]
    return [time for time in times if time < LENGTH_S]


def write_clip(path: Path, times: list[Fraction], event: Fraction) -> None:
    """Dark and quiet, but for a click at `event` and white pictures from then on."""
    sound = np.zeros(LENGTH_S * SOUND_RATE, np.float32)
    sound[int(event * SOUND_RATE) :][:48] = 0.9

    def pictures() -> Iterator[NDArray[np.uint8]]:
        return (np.full((64, 64, 3), 230 if time >= event else 30, np.uint8) for time in times)

    write_video(path, pictures(), Fraction(30), times=times, sound=sound, sample_rate=SOUND_RATE, preset="ultrafast")


def energies(waveform: NDArray[np.float32]) -> Tensor:
    """Stands where Wav2Vec2's hidden states stand: [1, frames, 1], frame n from samples 320 n .. 320 n + 399."""
    windows = np.lib.stride_tricks.sliding_window_view(waveform, SEEN)[::HOP]
    return torch.from_numpy((windows**2).sum(axis=1, dtype=np.float64)).float()[None, :, None]


@pytest.fixture(scope="module")
def vae(tmp_path_factory: pytest.TempPathFactory) -> VideoEncoder:
    folder = tmp_path_factory.mktemp("vae")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        save_vae(folder)
    return VideoEncoder(folder)


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("event_latent", [0, 2, 5])
def test_a_flash_and_its_click_share_a_latent_frame(vae: VideoEncoder, tmp_path: Path, rate: str, event_latent: int) -> None:
    times = picture_times(RATES[rate])
    event = Fraction(90, FRAME_RATE)
    path = tmp_path / "clip.mp4"
    write_clip(path, times, event)
    # Windows that put the event in the middle of a latent frame; the other places are half a frame from an edge at most.
    start = 90 - FRAMES_PER_LATENT * event_latent - 2
    for kind in ("first", "continuation"):
        planned = {
            "kind": kind, "start_frame": start, "num_frames": NUM_FRAMES, "reference_frame": 0, "clip_frames": LENGTH_S * FRAME_RATE,
            "video": str(path), "audio": str(path), "audio_digest": "", "heard_start": 0, "heard_frames": 0, "pose": "",
            "scaled_width": 64, "scaled_height": 64, "left": 0, "top": 0, "width": 64, "height": 64,
        }  # fmt: skip
        row = decoded_video(planned) | decoded_sound(planned)
        assert not row["video_error"]
        assert not row["speech_error"]
        latents, _ = vae.encode_clip(row["pixels"], kind, NUM_FRAMES, row["missing_frames"])
        dark, _ = vae.encode_clip(np.full_like(row["pixels"], 30), kind, NUM_FRAMES, row["missing_frames"])
        change = (latents - dark).abs().mean(dim=(0, 2, 3))
        seen = int((change > 0.02 * change.max()).nonzero()[0])
        assert seen == event_latent, "the VAE is causal: the first latent that differs holds the flash"

        features = frame_features(energies(row["waveform"]), start, NUM_FRAMES)[0, 0]
        heard = int(features.argmax())
        assert heard // FRAMES_PER_LATENT == event_latent
        before = len(row["pixels"]) - NUM_FRAMES
        flashed = int((row["pixels"][before:].mean(axis=(1, 2, 3)) > 128).nonzero()[0][0])
        assert abs(flashed - heard) <= 1
        slowest = max(later - earlier for earlier, later in pairwise(times))
        assert abs(Fraction(start + flashed, FRAME_RATE) - event) <= slowest / 2 + Fraction(1, FRAME_RATE)


def test_wav2vec_frames_lie_where_the_energies_are_taken() -> None:
    config = Wav2Vec2Config(conv_dim=(4,) * 7, feat_extract_norm="layer", num_hidden_layers=1, hidden_size=16, num_attention_heads=1)
    extractor = Wav2Vec2Model(config).feature_extractor.eval()
    for frame in (0, 7, 20):
        for sample, sees in ((HOP * frame, True), (HOP * frame + SEEN - 1, True), (HOP * frame + SEEN, False), (HOP * frame - 1, False)):
            if sample < 0:
                continue
            silent = torch.zeros(1, 8000)
            clicked = silent.clone()
            clicked[0, sample] = 1
            with torch.no_grad():
                difference = (extractor(clicked) - extractor(silent))[0, :, frame].abs().max()
            assert (difference > 0) == sees, (frame, sample)
