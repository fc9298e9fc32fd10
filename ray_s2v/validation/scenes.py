"""The scenes of a job's validation, looked at before anything runs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ray_s2v.config.job import Job
from ray_s2v.config.validation import Scene
from ray_s2v.demo import prepare_demo
from ray_s2v.job_file import job_of
from ray_s2v.schema import ConfigError
from ray_s2v.settings_file import read_settings, told
from ray_s2v.validation.preview import find_decoder
from ray_s2v.validation.video import check_scene


def with_scenes(job: Job) -> Job:
    """The job with its prompt library read into it and its scenes' files as every process sees them; each of them can be read.

    The demo's files, of which scenes may be, are made if they are not there. Raises ConfigError listing all that cannot be read.
    """
    if not job.validation:
        return job
    if job.demo:
        prepare_demo(job.demo)
    settings = _with_library(job).model_dump()
    validation = settings["validation"]
    for section in (validation, *validation["scenes"], *validation["prompts"].values()):
        for key in ("picture", "speech"):
            if section[key]:
                section[key] = str(Path(section[key]).expanduser().absolute())
    found = Job.model_validate(settings)
    assert found.validation
    if wrong := [line for scene in found.validation.all_scenes() for line in _mistakes(scene)]:
        raise ConfigError("\n".join(wrong))
    if found.sampling.previews:
        find_decoder(found.sampling.previews.decoder)
    return found


def _with_library(job: Job) -> Job:
    """The job with the prompts of its library beside its own. Raises ConfigError listing every mistake in the file."""
    assert job.validation
    path = job.validation.prompt_library
    if not path:
        return job
    library = read_settings(path, "a prompt library is a mapping of nicknames to prompts")
    settings = job.model_dump()
    prompts = settings["validation"]["prompts"]
    twice = [f"validation.prompts.{name}: is in the library too" for name in prompts if name in library]
    prompts |= library
    settings["validation"]["prompt_library"] = None
    found, mistakes = job_of(settings)
    if twice or not found:
        raise told(path, twice + mistakes)
    return found


def _mistakes(scene: Scene) -> Iterator[str]:
    try:
        check_scene(scene)
    except ConfigError as error:
        yield from (f"validation, scene {scene.name}: {line}" for line in str(error).splitlines())
