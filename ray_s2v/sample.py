"""`python -m ray_s2v.sample JOB.yaml --picture P --speech S --prompt WORDS --out V.mp4 [--adapter FOLDER] [section.key=value ...]`
makes a video.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from pydantic import ValidationError

from ray_s2v.command import command, say
from ray_s2v.config.job import Job
from ray_s2v.config.validation import Scene
from ray_s2v.schema import ConfigError, RunStopped


def sample(job: Job, options: argparse.Namespace) -> None:
    """Makes the video; returns when it is written."""
    scene = _scene(options)
    if options.out.suffix.lower() != ".mp4" or not options.out.absolute().parent.is_dir():
        raise ConfigError(f"--out {options.out}: must be a .mp4 in a folder that is there")
    # Imported when the job has been read: torch takes seconds, a typing mistake should not.
    import torch
    from transformers.utils import logging

    from ray_s2v.model.lora import ADAPTER_FILE
    from ray_s2v.reporting.terminal import Count
    from ray_s2v.validation.preview import find_decoder
    from ray_s2v.validation.video import check_scene, for_one, make_videos

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    if options.adapter and not (options.adapter / ADAPTER_FILE).is_file():
        raise ConfigError(f"--adapter {options.adapter}: holds no {ADAPTER_FILE}; a run's is in its folders adapter and checkpoints/step_N")
    if job.demo:
        from ray_s2v.demo import prepare_demo

        prepare_demo(job.demo)
    check_scene(scene)
    if job.sampling.previews:
        find_decoder(job.sampling.previews.decoder)
    on_gpu = job.training.worker_gpus > 0
    device = torch.device("cuda" if on_gpu else "cpu")
    failed = make_videos(
        for_one(job, float(on_gpu)),
        {options.out: scene},
        options.adapter,
        options.weight,
        device,
        say,
        Count().show,
        lambda _, file: say(f"a preview is {file}"),
    )
    if failed:
        raise RunStopped(f"{options.out} was not made: {failed[options.out]}")
    say(f"done: the video is {options.out}")


def _scene(options: argparse.Namespace) -> Scene:
    given = {name: getattr(options, name) for name in ("picture", "speech", "prompt", "seconds")}
    try:
        return Scene(name="steps", **given)  # which is what its progress counts
    except ValidationError as error:
        raise ConfigError("\n".join(f"--{mistake['loc'][0]}: {mistake['msg']}" for mistake in error.errors())) from error


def _main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser("python -m ray_s2v.sample", description="A video from a picture, a prompt and speech.")
    parser.add_argument("job", metavar="JOB.yaml")
    parser.add_argument("overrides", metavar="section.key=value", nargs="*", help="such as sampling.steps=20")
    parser.add_argument("--picture", required=True, help="a picture, or a video, whose first picture it is")
    parser.add_argument("--speech", required=True, help="a file with sound; a video, maybe")
    parser.add_argument("--prompt", required=True)
    parser.add_argument("--out", type=Path, required=True, help="the .mp4 to write")
    parser.add_argument("--adapter", type=Path, help="the folder of a run's adapter or checkpoint; none: the network as it is")
    parser.add_argument("--weight", type=float, default=1.0, help="of the adapter; 1 as trained")
    parser.add_argument("--seconds", type=float, help="of the sound; all of it when not given")
    options = parser.parse_intermixed_args(arguments)
    return command("sample", partial(sample, options=options), [options.job, *options.overrides])


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1:]))
