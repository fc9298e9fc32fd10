"""How videos are made of what is learnt: size, length, solver, guidance."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field, model_validator

from ray_s2v.config.section import Count, Positive, Section, Seed, Text, refuse
from ray_s2v.schema import FRAMES_PER_LATENT, MIN_SIDE, SIZE_MULTIPLE


class Previews(Section):
    """Looks at a clip while it is sampled, by the small decoder."""

    every: Count  # steps
    decoder: Text  # a file, or a folder or owner/repository of the hub that holds taew2_1.safetensors or taew2_1.pth


class Sampling(Section):
    """How videos are made of what is learnt."""

    size: Annotated[str, Field(pattern=r"^\d+x\d+$")] = "832x480"
    sizing: Literal["exact", "official"] = "exact"  # official: `size` is an area, the picture gives the shape, in steps of 64
    num_frames: Count = 80  # of a clip, at 16 a second
    init_first_frame: bool = False  # the first clip goes on from the picture, as later ones do from the clip before
    solver: Literal["unipc", "euler"] = "unipc"
    steps: Count = 40
    shift: Positive = 3.0
    guidance: Annotated[float, Field(ge=1)] = 4.5  # 1: none, in half the time
    negative_prompt: str = (  # the official one
        "画面模糊，最差质量，画面模糊，细节模糊不清，情绪激动剧烈，手快速抖动，字幕，丑陋的，残缺的，多余的手指，画得不好的手部，画得不好的脸部，"
        "畸形的，毁容的，形态畸形的肢体，手指融合，静止不动的画面，杂乱的背景，三条腿，背景人很多，倒着走"
    )
    seed: Seed = 42
    previews: Previews | None = None

    @model_validator(mode="after")
    def _shapes(self) -> Sampling:
        refuse(self._wrong_shapes())
        return self

    def _wrong_shapes(self) -> Iterator[str]:
        if any(side % SIZE_MULTIPLE or side < MIN_SIDE for side in self.sides):
            yield f"size {self.size}: both sides must be multiples of {SIZE_MULTIPLE} from {MIN_SIDE} on"
        if self.num_frames % FRAMES_PER_LATENT:
            yield f"num_frames {self.num_frames} must be a multiple of {FRAMES_PER_LATENT}"

    @property
    def sides(self) -> tuple[int, int]:
        """Width and height."""
        width, _, height = self.size.partition("x")
        return int(width), int(height)
