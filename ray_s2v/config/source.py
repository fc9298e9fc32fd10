"""One source of clips: where they lie, which are taken, and what of each is seen."""

from __future__ import annotations

import math
import re
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from ray_s2v.config.section import Count, Positive, Section, Whole
from ray_s2v.schema import FRAMES_PER_LATENT, MAX_HEARD_S, MIN_SIDE, SAMPLE_RATE, SIZE_MULTIPLE

MAX_FRAMES = 30 * FRAMES_PER_LATENT  # the reference picture's rotary position follows


class Source(Section):
    """A folder (searched recursively), WebDataset tar shards, or a Parquet or CSV manifest; here, or at s3://, gs:// or hf://.

    Sizes (`resolution`, `min_size`, `max_size`, `downsample_to`) are in the unit of `resolution_type`: `exact` 832x480, and for the
    other sizes the short side in pixels; `pixel_area` the edge of the square of that area; `area` megapixels; `pixel` the short side.
    """

    path: str
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
    windows_per_clip: Count | None = None  # different random windows of a clip, of either kind; else a new one each time
    pose_path: str | None = None

    auto_split: bool | None = None  # true unless there is an audio_path
    audio_path: str | None = None
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
    def _resolution_fits_its_type(self) -> Source:
        if self.resolution_type == "exact":
            self.exact_size()
        elif isinstance(self.resolution, str) or self.resolution <= 0:
            raise ValueError(f"resolution {self.resolution!r} must be a positive number where resolution_type is {self.resolution_type}")
        return self

    @model_validator(mode="after")
    def _settings_agree(self) -> Source:
        wrong = [*self._wrong_sizes(), *self._wrong_lengths(), *self._wrong_words_and_sound()]
        if wrong:
            raise ValueError("; ".join(wrong))
        return self

    def _wrong_sizes(self) -> list[str]:
        cuts = self.crop != "none"
        found = {
            "crop: none keeps the whole picture, so resolution_type: exact would distort it; give pixel_area, area or pixel": not cuts
            and self.resolution_type == "exact",
            f"aspect: {self.aspect} contradicts resolution_type: exact; give pixel_area, area or pixel": self.aspect != "preserve"
            and self.resolution_type == "exact",
            f"crop: none keeps the whole picture, so aspect must be preserve, not {self.aspect}": not cuts and self.aspect != "preserve",
            "aspect: random needs aspects, a list such as [0.75, 1.0, 1.33]": self.aspect == "random" and not self.aspects,
            "aspects are for aspect: random": self.aspect != "random" and self.aspects is not None,
            "max_size and downsample_to belong together: give both or none": (self.max_size is None) != (self.downsample_to is None),
            "downsample_to shrinks before cropping, and crop is none": not cuts and self.downsample_to is not None,
        }
        if self.max_size is not None and self.downsample_to is not None:
            found[f"downsample_to {self.downsample_to:g} must not be above max_size {self.max_size:g}"] = self.downsample_to > self.max_size
        if self.min_size is not None and self.max_size is not None:
            found[f"min_size {self.min_size:g} must not be above max_size {self.max_size:g}"] = self.min_size > self.max_size
        return [message for message, is_wrong in found.items() if is_wrong]

    def _wrong_lengths(self) -> list[str]:
        by_frames = self.bucket_strategy == "resolution_frames"
        interval = self.frame_interval
        found = {
            "frame_interval is for bucket_strategy: resolution_frames": not by_frames and interval is not None,
            "bucket_strategy: resolution_frames needs frame_interval, e.g. 16": by_frames and interval is None,
            "windows_per_clip is for window: random": self.window != "random" and self.windows_per_clip is not None,
        }
        if interval is not None:
            found[f"frame_interval {interval} must be a multiple of {FRAMES_PER_LATENT}, at most num_frames {self.num_frames}"] = (
                interval % FRAMES_PER_LATENT != 0 or interval > self.num_frames
            )
        if not by_frames or interval is not None:
            least = interval if by_frames and interval is not None else self.num_frames
            found[f"min_frames {self.min_frames} must be at least {least}"] = self.min_frames is not None and self.min_frames < least
            found[f"max_frames {self.max_frames} must be at least {self.least_frames()}"] = (
                self.max_frames is not None and self.max_frames < self.least_frames()
            )
        return [message for message, is_wrong in found.items() if is_wrong]

    def _wrong_words_and_sound(self) -> list[str]:
        found = {
            "caption: fixed needs instance_prompt": self.caption == "fixed" and not (self.instance_prompt or "").strip(),
            "instance_prompt is for caption: fixed": self.caption != "fixed" and self.instance_prompt is not None,
            "auto_split: true takes the sound from the video, audio_path from elsewhere: give one": self.auto_split is True
            and self.audio_path is not None,
            "auto_split: false needs audio_path, or allow_zero_audio: true": self.auto_split is False
            and self.audio_path is None
            and not self.allow_zero_audio,
            "an is_eval source is never trained on: no repeats, no weight": self.is_eval and (self.repeats > 0 or self.weight is not None),
            f"name {self.name!r} must not hold / or begin with a dot": "/" in self.name or self.name.startswith("."),
        }
        return [message for message, is_wrong in found.items() if is_wrong]

    def exact_size(self) -> tuple[int, int]:
        """Width and height of `resolution: 832x480`."""
        numbers = re.fullmatch(r"([0-9]{1,6})x([0-9]{1,6})", str(self.resolution).lower())
        if not numbers:
            raise ValueError(f"resolution {self.resolution!r} must read like 832x480 where resolution_type is exact")
        width, height = map(int, numbers.groups())
        if width % SIZE_MULTIPLE or height % SIZE_MULTIPLE or min(width, height) < MIN_SIDE:
            raise ValueError(f"resolution {self.resolution}: both sides must be multiples of {SIZE_MULTIPLE}, at least {MIN_SIDE}")
        return width, height

    def least_frames(self) -> int:
        """Frames at 16 a second below which a clip is rejected."""
        return self.min_frames or self.frame_interval or self.num_frames

    def called(self) -> str:
        """The source's name."""
        last = re.split(r"[\\/]", self.path.rstrip("/\\"))[-1]
        return self.name or re.sub(r"\.(tar|parquet|csv)$", "", last) or "clips"

    def takes_own_sound(self) -> bool:
        """Whether a clip's sound is in its video file."""
        return self.audio_path is None and self.auto_split is not False
