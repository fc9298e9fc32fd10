"""The encoders as stages of a Ray Data graph: each takes and gives tables of one row, and is loaded once in its actor."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from ray_s2v.data.features import sound_heard, window_in_sound
from ray_s2v.data.fetch import refused
from ray_s2v.data.rows import Row, to_row, to_table
from ray_s2v.schema import ClipError, ConfigError

if TYPE_CHECKING:
    import torch

LARGEST_HALF = 65504.0


class Stage:
    """An encoder on tables of one row. `wants` is the column that it takes away; rows without it pass as they are."""

    wants: str

    def __init__(self, dtype: str, **places: str) -> None:
        self.dtype = dtype
        self.refusal = ""
        try:
            self.load(**places)
        except ConfigError as error:
            # Goes to the workers in the row's place: Ray Data starts an actor whose constructor fails again and again, without end.
            self.refusal = str(error)

    def __call__(self, table: pa.Table) -> pa.Table:
        row = to_row(table)
        if "refusal" in row or self.wants not in row:
            return table
        return to_table(refused(row, self.refusal) if self.refusal else self.encoded(row))

    def load(self, **places: str) -> None:
        """Imports and loads the network: in the actor, so that no other process does."""
        raise NotImplementedError

    def encoded(self, row: Row) -> Row:
        raise NotImplementedError

    def packed(self, tensor: torch.Tensor) -> np.ndarray:
        """The tensor's numbers in the type that features have, the same for the store and the workers; float32 where half is too short."""
        array = tensor.float().cpu().numpy()
        return array.astype(np.float16) if self.dtype == "fp16" and np.abs(array).max(initial=0) <= LARGEST_HALF else array


class EncodeVideo(Stage):
    """`pixels`, `reference_pixels` and `pose_pixels` to `latents` [16, (19 +) latent_frames, h, w], `reference` [16, 1, h, w] and
    `pose` latents [16, latent_frames, h, w].
    """

    wants = "pixels"

    def load(self, path: str) -> None:  # type: ignore[override]
        from ray_s2v.encoders.vae import VideoEncoder

        self.encoder = VideoEncoder(path, _device())

    def encoded(self, row: Row) -> Row:
        import torch

        pixels, missing, reference = (row.pop(name) for name in ("pixels", "missing_frames", "reference_pixels"))
        latents, motion = self.encoder.encode_clip(pixels, row["kind"], row["num_frames"], missing)
        joined = latents if motion is None else torch.cat([motion, latents], dim=1)
        found = {"latents": self.packed(joined), "reference": self.packed(self.encoder.encode(reference))}
        if "pose_pixels" in row:
            found["pose_latents"] = self.packed(self.encoder.encode(row.pop("pose_pixels"))[:, 1:])
        return {**row, **found}


class EncodeSpeech(Stage):
    """`waveform` to `speech` [num_frames, layers, audio_dim] of the window."""

    wants = "waveform"

    def load(self, path: str) -> None:  # type: ignore[override]
        from ray_s2v.encoders.speech import SpeechEncoder

        self.encoder = SpeechEncoder(path, _device())

    def wanted(self, row: Row) -> slice:
        """Which frames of the sound that is heard."""
        return window_in_sound(row)

    def encoded(self, row: Row) -> Row:
        waveform, wanted = row.pop("waveform"), self.wanted(row)
        num_frames = wanted.stop - wanted.start
        blank = np.zeros((num_frames, *self.encoder.shape), np.float16)
        if not len(waveform):
            return {**row, "speech": blank}
        try:
            features = self.encoder.encode(waveform, wanted.start, num_frames)
        except ClipError as reason:
            return {**row, "speech": blank, "speech_error": str(reason)}
        return {**row, "speech": self.packed(features.permute(2, 0, 1).contiguous())}


class EncodeWholeSpeech(EncodeSpeech):
    """`waveform` to `speech` [num_frames, layers, audio_dim] of all that is heard, for the store."""

    def wanted(self, row: Row) -> slice:
        *_, num_frames = sound_heard(row)
        return slice(0, num_frames)


class EncodeText(Stage):
    """`words` to `text` [length, text_dim], the bits of its bfloat16 numbers as uint16."""

    wants = "words"

    def load(self, path: str, tokenizer: str) -> None:  # type: ignore[override]
        from ray_s2v.encoders.text import TextEncoder

        self.encoder = TextEncoder(path, tokenizer, _device())

    def encoded(self, row: Row) -> Row:
        import torch

        embedding = self.encoder.encode(row.pop("words"))
        assert embedding.dtype == torch.bfloat16
        return {**row, "text": embedding.cpu().view(torch.uint16).numpy()}


def _device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"
