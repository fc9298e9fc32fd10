"""The encoders at their real sizes with random weights on one GPU: seconds and peak memory of each, and of filling a store; as JSON.

    python -m tests.gpu.encoders OUT.json

What number type features can be stored in is measured on the same networks: relative error of what is stored, and by how much the
loss of a network of the real width moves.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKLWan
from transformers import UMT5Config, UMT5EncoderModel, Wav2Vec2Config, Wav2Vec2FeatureExtractor, Wav2Vec2ForCTC

from ray_s2v.demo.clips import Recording, write_clip
from ray_s2v.demo.encoder_weights import save_text_encoder
from ray_s2v.demo.faces import random_look
from ray_s2v.encoders.speech import SpeechEncoder
from ray_s2v.encoders.vae import VideoEncoder
from ray_s2v.model.transformer import WanS2VTransformer3DModel

WIDTH, HEIGHT, NUM_FRAMES = 832, 480, 80
ROOT = Path(__file__).parents[2]
NUM_CLIPS = 12


def timed(work: Callable[[], Any], times: int = 3) -> dict[str, float]:
    """The median of some runs after one that does not count, and the peak of memory."""
    work()
    torch.cuda.reset_peak_memory_stats()
    seconds = []
    for _ in range(times):
        torch.cuda.synchronize()
        started = time.monotonic()
        work()
        torch.cuda.synchronize()
        seconds.append(time.monotonic() - started)
    return {"s": round(sorted(seconds)[times // 2], 4), "peak_gib": round(torch.cuda.max_memory_allocated() / 2**30, 2)}


def save_encoders(folder: Path) -> None:
    """VAE and Wav2Vec2 at their real sizes, and a tiny text encoder."""
    AutoencoderKLWan().save_pretrained(folder / "vae")
    config = Wav2Vec2Config(
        hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, intermediate_size=4096, conv_bias=True,
        feat_extract_norm="layer", do_stable_layer_norm=True,
    )  # fmt: skip
    Wav2Vec2ForCTC(config).save_pretrained(folder / "wav2vec2")
    Wav2Vec2FeatureExtractor(sampling_rate=16000, return_attention_mask=True).save_pretrained(folder / "wav2vec2")
    save_text_encoder(folder / "text", folder / "tokenizer", ["a face that speaks"])


def video(folder: Path) -> dict[str, Any]:
    encoder = VideoEncoder(folder / "vae", "cuda")
    draw = np.random.default_rng(0)
    small = draw.integers(256, size=(1 + NUM_FRAMES + 72, HEIGHT // 16, WIDTH // 16, 3), dtype=np.uint8)
    pixels = np.kron(small, np.ones((1, 16, 16, 1), np.uint8))
    return {
        "first": timed(lambda: encoder.encode_clip(pixels[72:], "first", NUM_FRAMES)),
        "continuation": timed(lambda: encoder.encode_clip(pixels, "continuation", NUM_FRAMES)),
        "reference": timed(lambda: encoder.encode(pixels[:1])),
    }


def speech(folder: Path) -> dict[str, Any]:
    encoder = SpeechEncoder(folder / "wav2vec2", "cuda")
    return {f"{s} s": timed(lambda s=s: encoder.hidden_states(torch.randn(16000 * s))) for s in (5, 30, 120)}  # type: ignore[misc]


def text() -> dict[str, Any]:
    """UMT5-xxl on captions of 60 tokens, one by one and side by side."""
    config = UMT5Config(vocab_size=256384, d_model=4096, d_kv=64, d_ff=10240, num_layers=24, num_heads=64)
    with torch.device("meta"):
        model = UMT5EncoderModel(config)
    model = model.to(torch.bfloat16).to_empty(device="cuda").eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.02)
        found = {}
        for batch in (1, 16):
            tokens = torch.randint(3, 256384, (batch, 60), device="cuda")
            one = timed(lambda tokens=tokens: model(tokens))  # type: ignore[misc]
            found[f"{batch} at a time"] = one | {"captions_per_s": round(batch / one["s"], 1)}
    return found


def precision(folder: Path) -> dict[str, Any]:
    """What half precision changes: of the stored numbers, and of the loss of two blocks of the real width in bf16."""
    torch.manual_seed(0)
    hidden = SpeechEncoder(folder / "wav2vec2", "cuda").hidden_states(torch.randn(80000))
    audio = hidden[None, :, : 4 * 20].transpose(2, 3)
    with torch.device("meta"):
        network = WanS2VTransformer3DModel(num_layers=2, audio_inject_layers=(0,))
    exact = set(network._keep_in_fp32_modules)
    state = {
        name: 0.02 * torch.randn(p.shape, device="cuda", dtype=torch.float32 if exact & set(name.split(".")) else torch.bfloat16)
        for name, p in network.state_dict().items()
    }
    network.load_state_dict(state, assign=True)
    latents, motion, reference = (torch.randn(1, 16, n, 32, 32, device="cuda") for n in (20, 19, 1))
    noise, sigma = torch.randn_like(latents), torch.tensor(0.6, device="cuda")
    words = [torch.randn(60, 4096, device="cuda")]

    def loss(stored: Callable[[torch.Tensor], torch.Tensor]) -> float:
        clean = stored(latents)
        with torch.no_grad():
            given = ((1 - sigma) * clean + sigma * noise, 1000 * sigma[None], words, stored(reference))
            velocity = network(*given, motion=stored(motion), audio=stored(audio))
        return float((velocity.float() - (noise - clean)).square().mean())

    as_is, found = loss(lambda x: x), {}
    for dtype in (torch.float16, torch.bfloat16):

        def stored(x: torch.Tensor, dtype: torch.dtype = dtype) -> torch.Tensor:
            return x.to(dtype).float()

        errors = {name: float((stored(x) - x).norm() / x.norm()) for name, x in (("latents", latents), ("speech", audio))}
        found[str(dtype)] = {"relative_error": errors, "loss_relative_change": abs(loss(stored) - as_is) / as_is}
    return found | {"loss": as_is, "largest_speech": float(audio.abs().max())}


def store(folder: Path) -> dict[str, Any]:
    """`encode` on 720p clips, VAE and speech on shares of the one card: once, and again when all is there."""
    for index in range(NUM_CLIPS):
        draw = np.random.default_rng((7, index))
        write_clip(folder / f"clips/clip_{index:02}.mp4", random_look(draw), Recording(1280, 720, Fraction(25), 48000, 12.0), draw)
    job = {
        "run": {"folder": str(folder / "run")},
        "data": {"sources": [{"path": str(folder / "clips"), "windows_per_clip": 2}], "store": str(folder / "store")},
        "encoders": {
            "vae": {"path": str(folder / "vae"), "gpus": 0.5, "accelerator_type": _accelerator()},
            "speech": {"path": str(folder / "wav2vec2"), "gpus": 0.25},
            "text": {"path": str(folder / "text"), "tokenizer": str(folder / "tokenizer"), "gpus": 0.25},
        },
        "model": {"path": "unused"},
        "training": {"epochs": 4, "global_batch": 4},
    }
    (folder / "job.yaml").write_text(json.dumps(job))
    found = {}
    for turn in ("empty store", "full store"):
        started = time.monotonic()
        done = subprocess.run([sys.executable, "-m", "ray_s2v.encode", str(folder / "job.yaml")], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        lines = [
            line
            for line in done.stdout.splitlines()
            if line.startswith(("text", "speech", "video", "done", "  text", "  speech", "  video"))
        ]
        found[turn] = {"s": round(time.monotonic() - started, 1), "said": lines}
    return found


def _accelerator() -> str:
    """As Ray names the card."""
    name = torch.cuda.get_device_name()
    return next(kind for kind in ("H100", "H200") if kind in name)


def main(out: Path) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "clips").mkdir()
        save_encoders(folder)
        result: dict[str, Any] = {"card": torch.cuda.get_device_name(), "torch": torch.__version__}
        for part, work in (("video", video), ("speech", speech), ("precision", precision), ("store", store)):
            result[part] = work(folder)
            torch.cuda.empty_cache()
            out.write_text(json.dumps(result, indent=1))
        result["text"] = text()
        out.write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
