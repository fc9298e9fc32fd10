"""One source of clips: where they lie, which are taken, and what of each is seen."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from ray_s2v.config.section import Count, Positive, Section, Text, Whole, refuse
from ray_s2v.schema import FRAMES_PER_LATENT, MAX_HEARD_S, MIN_SIDE, SAMPLE_RATE, SIZE_MULTIPLE

MAX_FRAMES = 30 * FRAMES_PER_LATENT  # the reference picture's rotary position follows
MAX_SIDE = 4096  # pixels; far above what the network was trained on, and below what a wrong unit gives
_EXACT = re.compile(r"([0-9]{1,5})x([0-9]{1,5})", re.IGNORECASE)


class Source(Section):
    """A folder (searched recursively), WebDataset tar shards, or a Parquet or CSV manifest; here, or at s3://, gs:// or hf://.

    Sizes (`resolution`, `min_size`, `max_size`, `downsample_to`) are in the unit of `resolution_type`: `exact` 832x480, and for the
    other sizes the short side in pixels; `pixel_area` the edge of the square of that area; `area` megapixels; `pixel` the short side.
    """

    path: Text
    name: str = ""  # in ids and tables; the last part of the path unless it is given
    caption: Literal["textfile", "filename", "fixed", "column"] | None = None  # of a manifest `column`, else `textfile`
    instance_prompt: str | None = None  # the caption of all clips
    repeats: Whole = 0
    weight: Positive | None = None
    is_eval: bool = False

    resolution: str | int | float = "832x480"
    resolution_type: Literal["exact", "pixel_area", "area", "pixel"] = "exact"
    aspect_rounding: Annotated[int, Field(ge=0, le=4)] = 2
    min_size: Positive | None = None
    max_size: Positive | None = None
    downsample_to: Positive | None = None
    crop: Literal["none", "center", "random", "corner"] = "center"
    aspect: Literal["preserve", "square", "random"] = "preserve"
    aspects: Annotated[list[Positive], Field(min_length=1)] | None = None  # width over height, that aspect: random takes from

    num_frames: int = 80
    min_frames: Count | None = None
    max_frames: Count | None = None
    bucket_strategy: Literal["aspect_ratio", "resolution_frames"] = "aspect_ratio"
    frame_interval: Count | None = None
    window: Literal["beginning", "end", "random"] = "random"
    windows_per_clip: Count | None = None  # at most so many of either kind, each with its reference and cut; else new ones each time
    pose_path: Text | None = None

    auto_split: bool | None = None  # true unless there is an audio_path
    audio_path: Text | None = None
    allow_zero_audio: bool = False
    sample_rate: int = SAMPLE_RATE
    channels: int = 1
    max_duration_seconds: Positive | None = None
    duration_interval: Annotated[float, Field(ge=0.25, le=MAX_HEARD_S / 4)] = 3.0
    truncation_mode: Literal["beginning", "end", "random"] = "beginning"

    @field_validator("resolution", mode="before")
    @classmethod
    def _one_number_or_text(cls, value: Any) -> Any:
        if not isinstance(value, str | int | float) or value in (math.inf, -math.inf) or value != value:
            raise ValueError("must read like 832x480, or be a number")
        return value

    @field_validator("num_frames")
    @classmethod
    def _whole_latents(cls, value: int) -> int:
        if value % FRAMES_PER_LATENT or not 0 < value <= MAX_FRAMES:
            nearest = min(max(round(value / FRAMES_PER_LATENT), 1) * FRAMES_PER_LATENT, MAX_FRAMES)
            raise ValueError(f"must be a multiple of {FRAMES_PER_LATENT} up to {MAX_FRAMES}, 80 officially; nearest is {nearest}")
        return value

    @field_validator("sample_rate")
    @classmethod
    def _rate_of_wav2vec(cls, value: int) -> int:
        if value != SAMPLE_RATE:
            raise ValueError(f"must be {SAMPLE_RATE}, what Wav2Vec2 was trained on; files of any rate are resampled to it")
        return value

    @field_validator("channels")
    @classmethod
    def _mono(cls, value: int) -> int:
        if value != 1:
            raise ValueError("must be 1, what Wav2Vec2 was trained on; files of any number of channels are averaged")
        return value

    @model_validator(mode="after")
    def _settings_agree(self) -> Source:
        refuse([*self._wrong_resolution(), *self._wrong_sizes(), *self._wrong_lengths(), *self._wrong_words(), *self._wrong_sound()])
        return self

    def _wrong_resolution(self) -> Iterator[str]:
        given, kind = self.resolution, self.resolution_type
        if kind == "exact":
            if not _EXACT.fullmatch(str(given)):
                yield f"resolution {given!r} must read like 832x480 where resolution_type is exact"
            elif (nearest := tuple(map(_nearest_side, self.exact_size()))) != self.exact_size():
                yield (
                    f"resolution {given}: both sides must be multiples of {SIZE_MULTIPLE} from {MIN_SIDE} to {MAX_SIDE}; "
                    f"nearest is {nearest[0]}x{nearest[1]}"
                )
        elif isinstance(given, str):
            yield f"resolution {given!r} must be a number where resolution_type is {kind}"
        else:
            least, most, unit = (MIN_SIDE**2 / 1e6, MAX_SIDE**2 / 1e6, "megapixels") if kind == "area" else (MIN_SIDE, MAX_SIDE, "pixels")
            if not least <= given <= most:
                yield f"resolution {given:g} must be from {least:g} to {most:g} {unit} where resolution_type is {kind}"

    def _wrong_sizes(self) -> Iterator[str]:
        if self.crop == "none":
            if self.resolution_type == "exact":
                yield "crop: none keeps the whole picture, so resolution_type: exact would distort it; give pixel_area, area or pixel"
            if self.aspect != "preserve":
                yield f"crop: none keeps the whole picture, so aspect must be preserve, not {self.aspect}"
            if self.downsample_to is not None:
                yield "downsample_to shrinks before cropping, and crop is none"
        if self.aspect != "preserve" and self.resolution_type == "exact":
            yield f"aspect: {self.aspect} contradicts resolution_type: exact; give pixel_area, area or pixel"
        if self.aspect == "random" and self.aspects is None:
            yield "aspect: random needs aspects, a list such as [0.75, 1.0, 1.33]"
        if self.aspect != "random" and self.aspects is not None:
            yield "aspects are for aspect: random"
        if (self.max_size is None) != (self.downsample_to is None):
            yield "max_size and downsample_to belong together: give both or none"
        least = self._least_size()
        if self.downsample_to is not None and self.downsample_to < least:
            yield f"downsample_to {self.downsample_to:g} must be at least the resolution's {least:g}: it would be enlarged again"
        if self.max_size is not None:
            if self.downsample_to is not None and self.downsample_to > self.max_size:
                yield f"downsample_to {self.downsample_to:g} must not be above max_size {self.max_size:g}"
            if self.min_size is not None and self.min_size > self.max_size:
                yield f"min_size {self.min_size:g} must not be above max_size {self.max_size:g}"

    def _wrong_lengths(self) -> Iterator[str]:
        least = self.num_frames
        if self.bucket_strategy == "resolution_frames":
            least = self.frame_interval or FRAMES_PER_LATENT
            if self.frame_interval is None:
                yield "bucket_strategy: resolution_frames needs frame_interval, e.g. 16"
            elif least % FRAMES_PER_LATENT or least > self.num_frames:
                yield f"frame_interval {least} must be a multiple of {FRAMES_PER_LATENT}, at most num_frames {self.num_frames}"
        elif self.frame_interval is not None:
            yield "frame_interval is for bucket_strategy: resolution_frames"
        if self.min_frames is not None and self.min_frames < least:
            yield f"min_frames {self.min_frames} must be at least {least}"
        if self.max_frames is not None and self.max_frames < max(least, self.min_frames or 0):
            yield f"max_frames {self.max_frames} must be at least {max(least, self.min_frames or 0)}"

    def _wrong_words(self) -> Iterator[str]:
        if self.caption == "fixed" and not (self.instance_prompt or "").strip():
            yield "caption: fixed needs instance_prompt"
        if self.caption != "fixed" and self.instance_prompt is not None:
            yield "instance_prompt is for caption: fixed"
        called = self.called()
        if called[0] in ". " or "/" in called or not called.isprintable():
            yield f"name {called!r} must not begin with a dot or a space, nor hold / or line breaks: give another name"
        if self.is_eval and (self.repeats > 0 or self.weight is not None):
            yield "an is_eval source is never trained on: no repeats, no weight"

    def _wrong_sound(self) -> Iterator[str]:
        if self.auto_split is True and self.audio_path is not None:
            yield "auto_split: true takes the sound from the video, audio_path from elsewhere: give one"
        if self.auto_split is False and self.audio_path is None and not self.allow_zero_audio:
            yield "auto_split: false needs audio_path, or allow_zero_audio: true"

    def exact_size(self) -> tuple[int, int]:
        """Width and height of `resolution: 832x480`."""
        width, height = str(self.resolution).lower().split("x")
        return int(width), int(height)

    def _least_size(self) -> float:
        """Of a clip that is not enlarged to fill its bucket, in the unit of `resolution_type`; 0 where the resolution is no such."""
        if self.resolution_type == "exact":
            return min(self.exact_size()) if _EXACT.fullmatch(str(self.resolution)) else 0
        return 0 if isinstance(self.resolution, str) else self.resolution

    def least_frames(self) -> int:
        """Frames at 16 a second below which a clip is rejected."""
        return self.min_frames or self.frame_interval or self.num_frames

    def called(self) -> str:
        """The source's name."""
        last = re.split(r"[\\/]", self.path.rstrip("/\\"))[-1]
        return self.name or re.sub(r"\.(tar|parquet|csv)$", "", last).lstrip(". ") or "clips"

    def takes_own_sound(self) -> bool:
        """Whether a clip's sound is in its video file."""
        return self.audio_path is None and self.auto_split is not False


def _nearest_side(pixels: int) -> int:
    """A side that a bucket can have."""
    return min(max(round(pixels / SIZE_MULTIPLE) * SIZE_MULTIPLE, MIN_SIDE), MAX_SIDE)
