"""`python -m ray_s2v.sample JOB.yaml --picture P --speech S --prompt WORDS --out V.mp4 [--adapter FOLDER] [section.key=value ...]`
makes a video.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from ray_s2v.command import command, say
from ray_s2v.config.job import Job
from ray_s2v.schema import ConfigError


def sample(job: Job, options: argparse.Namespace) -> None:
    """Makes the video; returns when it is written."""
    if options.out.suffix.lower() != ".mp4" or not options.out.absolute().parent.is_dir():
        raise ConfigError(f"--out {options.out}: must be a .mp4 in a folder that is there")
    # Imported when the job has been read: torch takes seconds, a typing mistake should not.
    import torch

    from ray_s2v.validation.video import Scene, check_scene, make_video

    scene = Scene(options.picture, options.speech, options.prompt, options.seconds)
    check_scene(scene)
    if job.demo:
        from ray_s2v.demo import prepare_demo

        prepare_demo(job.demo)
    device = torch.device("cuda" if job.training.worker_gpus else "cpu")
    make_video(job, scene, options.adapter, options.weight, options.out, device, say)
    say(f"done: the video is {options.out}")


def _main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser("python -m ray_s2v.sample", description="A video from a picture, a prompt and speech.")
    parser.add_argument("job", metavar="JOB.yaml")
    parser.add_argument("overrides", metavar="section.key=value", nargs="*", help="such as sampling.steps=20")
    parser.add_argument("--picture", type=Path, required=True)
    parser.add_argument("--speech", type=Path, required=True, help="a file with sound")
    parser.add_argument("--prompt", required=True)
    parser.add_argument("--out", type=Path, required=True, help="the .mp4 to write")
    parser.add_argument("--adapter", type=Path, help="the folder of a run's adapter or checkpoint; none: the network as it is")
    parser.add_argument("--weight", type=float, default=1.0, help="of the adapter; 1 as trained")
    parser.add_argument("--seconds", type=float, help="of the sound; all of it when not given")
    options = parser.parse_intermixed_args(arguments)
    return command("sample", partial(sample, options=options), [options.job, *options.overrides])


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1:]))
