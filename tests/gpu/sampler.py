"""A video of the 14B configuration with random weights, on one GPU: seconds and peak memory of its parts, as JSON.

    python -m tests.gpu.sampler OUT.json [--card GIB] [--steps N] [section.key=value ...]

Two clips, the second a continuation, through the sampler with the network as `ray_s2v.sample` arranges it and the VAE at its real size.
--card: as much memory as a card of that size has.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKLWan

from ray_s2v.benchmark.random_weights import RandomWeights
from ray_s2v.encoders.vae import VideoEncoder
from ray_s2v.job_file import load_job
from ray_s2v.model.fused.memory import GIB
from ray_s2v.schema import Bucket
from ray_s2v.training.network import job_lora, network_for_training
from ray_s2v.validation.sampler import Conditions, sampled_clips
from ray_s2v.validation.video import for_one

JOB = "jobs/wan_s2v_14b_lora.yaml"
CLIPS = 2


class Measured:
    """Seconds and peak memory of each part, in the order in which they ended."""

    def __init__(self) -> None:
        self.parts: list[dict[str, Any]] = []
        self.begin()

    def begin(self) -> None:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        self.begun = time.monotonic()

    def end(self, name: str) -> None:
        torch.cuda.synchronize()
        peaks = {"peak_gib": torch.cuda.max_memory_allocated(), "reserved_gib": torch.cuda.max_memory_reserved()}
        part = {"part": name, "s": round(time.monotonic() - self.begun, 2)} | {key: round(peak / GIB, 2) for key, peak in peaks.items()}
        print(part, flush=True)
        self.parts.append(part)
        self.begin()

    def of(self, name: str, work: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
        def measured(*arguments: Any) -> torch.Tensor:
            self.begin()
            result = work(*arguments)
            self.end(name)
            return result

        return measured


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path)
    parser.add_argument("--card", type=float)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("overrides", nargs="*")
    options = parser.parse_intermixed_args()
    job, device = for_one(load_job(JOB, [f"sampling.steps={options.steps}", *options.overrides]), 1.0), torch.device("cuda:0")
    if options.card:
        job = job.model_copy(update={"training": job.training.model_copy(update={"gpu_memory_gib": options.card})})
    settings, notes = job.sampling, list[str]()
    width, height = settings.sides
    weights = RandomWeights(job.model.path, device, shared_on_host=True)
    measured = Measured()
    result = {"card": torch.cuda.get_device_name(), "torch": torch.__version__, "overrides": options.overrides, "of_gib": options.card}
    with tempfile.TemporaryDirectory() as folder:
        torch.manual_seed(0)
        AutoencoderKLWan().save_pretrained(f"{folder}/vae")
        vae = VideoEncoder(f"{folder}/vae", str(device))
        network = network_for_training(
            job, job_lora(job), weights, device, Bucket(width, height, settings.num_frames), lambda text: notes.append(str(text))
        ).eval()
        measured.end("loading")
        config = weights.outline().config

        def draw(*shape: int) -> torch.Tensor:
            return torch.rand(shape, device=device) * 2 - 1

        picture = draw(height, width, 3)
        vae.encode_scaled, vae.decode = measured.of("encoding", vae.encode_scaled), measured.of("decoding", vae.decode)  # type: ignore[method-assign]
        shown = Conditions(
            picture,
            vae.encode_scaled(picture[None])[None],
            draw(120, config.text_dim),
            draw(126, config.text_dim),
            draw(25, config.audio_dim, CLIPS * settings.num_frames),
        )
        clips = sampled_clips(network, vae, shown, settings, lambda clip, step, _: measured.end(f"clip {clip + 1}, step {step}"))
        try:
            for clip in clips:
                assert clip.isfinite().all()
        except torch.OutOfMemoryError as error:
            result["out_of_memory"] = str(error).partition(". ")[0]
        result |= {"notes": notes, "parts": measured.parts}
        options.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
