"""Sound to features: the hidden states of Wav2Vec2, and which of them belong to which frame of the video."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate
from transformers import Wav2Vec2Model

from ray_s2v.encoders.loading import load_frozen
from ray_s2v.schema import FRAME_RATE, ClipError

HIDDEN_RATE = 50  # hidden states a second, nominally
FEATURE_RATE = 30  # features a second, between the hidden states and the video's frames
MIN_SAMPLES = 400  # what one hidden state sees


def normalised(waveform: Tensor) -> Tensor:
    """The waveform with mean zero and variance one, as Wav2Vec2's feature extractor makes it."""
    return (waveform - waveform.mean()) / torch.sqrt(waveform.var(correction=0) + 1e-7)


def at_feature_rate(hidden_50hz: Tensor) -> Tensor:
    """Features [layers, width, num_features], 30 a second, of hidden states [layers, num_hidden, width].

    ClipError if there is not even one. wan_s2v section 7 item 4.
    """
    # In this order: multiplying first gives one feature more at some lengths.
    num_features = int(hidden_50hz.shape[1] / HIDDEN_RATE * FEATURE_RATE)
    if num_features == 0:
        raise ClipError("the sound is too short")
    return interpolate(hidden_50hz.transpose(1, 2), size=num_features, mode="linear", align_corners=True)


def frame_features(hidden_50hz: Tensor, start_frame: int, num_frames: int, fps: float = FRAME_RATE) -> Tensor:
    """Features [layers, width, num_frames] of the video's frames start_frame.., zeros for frames after the sound's end.

    hidden_50hz: [layers, num_hidden, width], of the whole sound. fps: frames of the video a second. The one place where
    sound meets frames. ClipError if the sound is too short. wan_s2v section 7 items 4 and 5.
    """
    assert start_frame >= 0
    features = at_feature_rate(hidden_50hz)
    frames = torch.arange(start_frame, start_frame + num_frames, dtype=torch.float64, device=features.device)
    index = torch.round(frames * FEATURE_RATE / fps).long()  # halves to the even neighbour
    heard = index < features.shape[2]
    result = features.new_zeros(*features.shape[:2], num_frames)
    result[:, :, heard] = features[:, :, index[heard]]
    return result


class SpeechEncoder:
    """The frozen Wav2Vec2, in float32; `path` as in location.find_place. What it returns lies on `device`."""

    def __init__(self, path: str | Path, device: str = "cpu") -> None:
        self.device = device
        # Masking belongs to training, and not every file has its one tensor.
        self.wav2vec = load_frozen(Wav2Vec2Model, path, device, torch.float32, mask_time_prob=0.0, mask_feature_prob=0.0)
        self.shape = (self.wav2vec.config.num_hidden_layers + 1, self.wav2vec.config.hidden_size)  # of one frame's features

    @torch.no_grad()
    def hidden_states(self, waveform: np.ndarray | Tensor) -> Tensor:
        """Hidden states [layers + 1, (samples - 400) // 320 + 1, width], about 50 a second; the last one is normalised.

        waveform: float32 [samples], mono at 16 kHz, the whole sound. ClipError below 400 samples.
        """
        waveform = waveform if isinstance(waveform, Tensor) else torch.tensor(waveform)
        assert waveform.ndim == 1
        assert waveform.dtype == torch.float32
        if len(waveform) < MIN_SAMPLES:
            raise ClipError("the sound is too short")
        output = self.wav2vec(normalised(waveform.to(self.device))[None], output_hidden_states=True)
        # transformers 5 lists the last state without the encoder's final norm, which the S2V model was trained with.
        return torch.cat([*output.hidden_states[:-1], output.last_hidden_state])

    def encode(self, waveform: np.ndarray | Tensor, start_frame: int, num_frames: int) -> Tensor:
        """Features [layers + 1, width, num_frames] of the frames start_frame.. at 16 a second, as frame_features gives them.

        waveform: as in hidden_states, the whole sound: its every part changes all features.
        """
        return frame_features(self.hidden_states(waveform), start_frame, num_frames)
