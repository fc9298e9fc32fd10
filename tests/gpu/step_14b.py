"""Steps of the 14B configuration with random weights through the real engine on one GPU: seconds and peak memory, as JSON.

    python -m tests.gpu.step_14b OUT.json

832x480, 80 frames (20 latent frames), rank 16 on all 368 layers, bf16, full checkpointing, ZeRO-2 of one worker.
"""

import json
import os
import sys
import time
from pathlib import Path

import torch
import torch.distributed as dist

from ray_s2v.model.lora import lora_config, with_lora
from ray_s2v.model.transformer import WanS2VTransformer3DModel
from ray_s2v.schema import Batch
from ray_s2v.training.engine import Engine
from tests.spawn.zero_runs import tiny_job

FRAMES, HEIGHT, WIDTH = 20, 60, 104
STEPS = 3


def random_network() -> WanS2VTransformer3DModel:
    with torch.device("meta"):
        network = WanS2VTransformer3DModel()
    exact = set(network._keep_in_fp32_modules)
    state = {
        name: 0.02 * torch.randn(p.shape, device="cuda", dtype=torch.float32 if exact & set(name.split(".")) else torch.bfloat16)
        for name, p in network.state_dict().items()
    }
    network.load_state_dict(state, assign=True)
    return network


def random_batch(has_motion: bool) -> Batch:
    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(shape, device="cuda")

    return Batch(
        step=0,
        slots=[0],
        clip_ids=["random"],
        errors=[""],
        latents=draw(1, 16, FRAMES, HEIGHT, WIDTH),
        reference=draw(1, 16, 1, HEIGHT, WIDTH),
        motion=draw(1, 16, 19, HEIGHT, WIDTH) if has_motion else None,
        pose=None,
        audio=draw(1, 25, 1024, 4 * FRAMES),
        text=[draw(120, 4096)],
        noise=draw(1, 16, FRAMES, HEIGHT, WIDTH),
        noise_level=torch.tensor([0.5], device="cuda"),
        seed=0,
    )


def main(out: Path) -> None:
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT="29591", RANK="0", WORLD_SIZE="1", LOCAL_RANK="0")
    dist.init_process_group("nccl")
    started = time.monotonic()
    network = random_network()
    network.enable_gradient_checkpointing()
    job = tiny_job(2, 1).model_copy(update={"training": tiny_job(2, 1).training.model_copy(update={"global_batch": 1})})
    model = with_lora(network, lora_config(16, 16, 0.0, ["to_q", "to_k", "to_v", "to_out.0"], "all"), seed=0).train()
    engine = Engine(model, job, torch.device("cuda"), None, 0)
    result = {
        "card": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "trainable": sum(p.numel() for p in engine.adapter.values()),
        "setup_s": time.monotonic() - started,
    }
    for kind, has_motion in (("first", False), ("continuation", True)):
        torch.cuda.reset_peak_memory_stats()
        times, losses, norms = [], [], []
        for _ in range(STEPS):
            torch.cuda.synchronize()
            begun = time.monotonic()
            losses += engine.forward_backward(random_batch(has_motion), 1.0)
            finite = engine.gradients_finite()
            norms.append(engine.step(1e-4))
            torch.cuda.synchronize()
            times.append(round(time.monotonic() - begun, 3))
        result[kind] = {
            "step_s": times,
            "losses": losses,
            "gradient_norms": norms,
            "gradients_finite": finite,
            "peak_gib": round(torch.cuda.max_memory_allocated() / 2**30, 2),
        }
        out.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
