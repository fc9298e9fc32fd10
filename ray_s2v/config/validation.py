"""The videos that a run makes of what it has learnt so far: when, of which scenes, and what making them reserves."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints, model_validator

from ray_s2v.config.section import Amount, Count, Positive, Section, Share, Text, refuse

Words = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]
LONGEST_NAME = 200  # bytes; the system takes 255, and half a file's name is longer


class Scene(Section):
    """What a video is made from."""

    name: Text  # of its file
    picture: Text
    speech: Text  # a file with sound; of a video its own
    prompt: Words
    seconds: Positive | None = None  # of the sound; all of it


class Prompt(Section):
    """A scene of a library, called by its nickname; a plain text is its prompt. What it lacks, the library's scenes have in common."""

    prompt: Words
    picture: Text | None = None
    speech: Text | None = None
    seconds: Positive | None = None

    @model_validator(mode="before")
    @classmethod
    def _text_alone(cls, value: Any) -> Any:
        return {"prompt": value} if isinstance(value, str) else value


class Validation(Section):
    every: Count  # steps; also after the last
    scenes: list[Scene] = Field(default=[])
    prompts: dict[Text, Prompt] = Field(default={})  # by nickname, which is the scene's name
    prompt_library: Text | None = None  # a YAML or JSON file of more of them
    picture: Text | None = None  # these three of prompts that say nothing else
    speech: Text | None = None
    seconds: Positive | None = None
    place: Literal["auto", "beside", "workers"] = "auto"  # in a process beside training, or by the workers, which stop for it; auto:
    # beside, where the cluster has room
    gpus: Share = 1.0  # that the process beside takes of one GPU; 0 makes them on CPUs
    cpus: Amount = 1.0
    accelerator_type: Text | None = None  # of its node, as Ray names it
    weights: Literal["online", "ema", "both"] = "online"  # as they are trained, their average (training.ema), or a video of each
    timeout_s: Annotated[Positive, Field(le=604_800)] = 3600.0  # that the end of the run waits for the last videos

    @model_validator(mode="after")
    def _scenes_agree(self) -> Validation:
        refuse(self._wrong_scenes())
        return self

    def _wrong_scenes(self) -> Iterator[str]:
        if not (self.scenes or self.prompts or self.prompt_library):
            yield "of which scenes? give scenes, prompts or prompt_library"
        names = [*(scene.name for scene in self.scenes), *self.prompts]
        for name, count in Counter(names).items():
            if count > 1:
                yield f"{count} scenes are called {name!r}: give each a name of its own"
            if name.startswith(".") or "/" in name or not name.isprintable() or len(name.encode()) > LONGEST_NAME:
                yield f"the scene's name {name!r} is to be a file's: without /, no dot in front, at most {LONGEST_NAME} bytes"
        for name, prompt in self.prompts.items():
            for key in ("picture", "speech"):
                if not getattr(prompt, key) and not getattr(self, key):
                    yield f"prompts.{name}: has no {key}; give it one, or validation.{key} for all"

    def made_with(self) -> list[str]:
        """Which weights videos are made with."""
        return ["online", "ema"] if self.weights == "both" else [self.weights]

    def video_name(self, scene: str, weights: str) -> str:
        """What a scene's video is called: the scene, and where there are two of it, the average's after it."""
        return f"{scene}_ema" if self.weights == "both" and weights == "ema" else scene

    def video_names(self) -> list[str]:
        """Of all videos of a checkpoint, in the order in which they are made."""
        return [self.video_name(scene.name, weights) for weights in self.made_with() for scene in self.all_scenes()]

    def due(self, steps_done: int, num_steps: int) -> bool:
        """Whether the videos are made of what is learnt in so many steps."""
        return steps_done == num_steps or (steps_done > 0 and steps_done % self.every == 0)

    def all_scenes(self) -> list[Scene]:
        """Those of `scenes`, then of `prompts`. Not before the library is read."""
        assert self.prompt_library is None
        of_prompts = (
            Scene(
                name=name,
                picture=prompt.picture or self.picture or "",
                speech=prompt.speech or self.speech or "",
                prompt=prompt.prompt,
                seconds=prompt.seconds or self.seconds,
            )
            for name, prompt in self.prompts.items()
        )
        return [*self.scenes, *of_prompts]
