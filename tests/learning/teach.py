"""Makes the small weights that the learning tests begin with: `python -m tests.learning.teach WEIGHTS [--minutes M M M]`, on a GPU.

A VAE and a speech encoder taught on the drawn faces and voices, a text encoder left as it was drawn, and the S2V network taught on
world.py's lamp-lit clips, its every weight, by the flow loss of the trainer itself. What is there already is not made again. The weights
here: speech and VAE on an H100, 1 and 17 minutes in all; the network there for 2.5 minutes with an earlier VAE, then on two CPU cores for
an hour (`--minutes 0 0 60 --clips 1500 --batch 32 --further`).
"""

from __future__ import annotations

import argparse
import itertools
import math
import multiprocessing
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import torchaudio
from diffusers import AutoencoderKLWan
from peft import LoraConfig, inject_adapter_in_model
from torch import Tensor, nn
from transformers import UMT5EncoderModel, Wav2Vec2Config, Wav2Vec2FeatureExtractor, Wav2Vec2ForCTC

from ray_s2v.demo.encoder_weights import save_text_encoder
from ray_s2v.demo.faces import COLOURS, PITCHES, SHAPES, Look
from ray_s2v.demo.transformer_weights import CONFIG, save_checkpoint
from ray_s2v.encoders.speech import SpeechEncoder, frame_features
from ray_s2v.encoders.text import TextEncoder
from ray_s2v.encoders.vae import VideoEncoder
from ray_s2v.model.flow import NUM_TIMESTEPS, noised, shifted
from ray_s2v.model.transformer import TEXT_LENGTH, WanS2VTransformer3DModel
from ray_s2v.schema import HISTORY_FRAMES, HISTORY_LATENTS, SAMPLE_RATE
from tests.learning.world import NUM_FRAMES, Shown, lamp_lit, spoken

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
LENGTH = HISTORY_FRAMES + 2 * NUM_FRAMES  # frames of a clip
RATE = 2e-3
Tensors = dict[str, Tensor]
SPEECH = "wav2vec2-large-xlsr-53-english"
SIZES = {"dim": 96, "ffn_dim": 160, "num_heads": 6, "num_layers": 4, "audio_inject_layers": [0, 2], "audio_dim": 16}


def clips(make: Callable[[int, int], Shown], first: int, count: int) -> list[Shown]:
    with multiprocessing.get_context("fork").Pool() as pool:
        return pool.map(partial(make, num_frames=LENGTH), range(first, first + count), chunksize=16)


class Step:
    """One step of training: gradients, their clipping, Adam. On a GPU recorded once for each shape of the batch, and played again.

    Nearly all time would go into starting kernels otherwise: the networks are tiny.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], loss_of: Callable[[Tensors], Tensor]) -> None:
        self.parameters, self.loss_of = list(parameters), loss_of
        self.rate = torch.tensor(0.0, device=DEVICE)
        self.optimizer = torch.optim.AdamW(
            parameters, lr=self.rate, weight_decay=0.0, betas=(0.9, 0.99), fused=True, capturable=DEVICE.type == "cuda"
        )
        self.recorded: dict[Any, tuple[Tensors, torch.cuda.CUDAGraph, Tensor]] = {}
        for parameter in self.parameters:
            parameter.grad = torch.zeros_like(parameter)

    def __call__(self, batch: Tensors) -> Tensor:
        """The loss of the batch before the step."""
        if DEVICE.type == "cpu":
            return self._computed(batch)
        shape = tuple((name, tensor.shape) for name, tensor in batch.items())
        if shape not in self.recorded:
            self.recorded[shape] = self._record(batch)
        held, graph, loss = self.recorded[shape]
        for name, tensor in batch.items():
            held[name].copy_(tensor)
        graph.replay()
        return loss

    def _computed(self, batch: Tensors) -> Tensor:
        for parameter in self.parameters:
            parameter.grad.zero_()
        loss = self.loss_of(batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        return loss.detach()

    def _record(self, batch: Tensors) -> tuple[Tensors, torch.cuda.CUDAGraph, Tensor]:
        held = {name: tensor.clone() for name, tensor in batch.items()}
        beside = torch.cuda.Stream()
        beside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(beside):
            for _ in range(3):
                self._computed(held)
        torch.cuda.current_stream().wait_stream(beside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            loss = self._computed(held)
        return held, graph, loss


def taught(
    parameters: Sequence[nn.Parameter], batch_of: Callable[[int], Tensors], loss_of: Callable[[Tensors], Tensor], minutes: float, name: str
) -> None:
    """Steps at a rate that warms up and falls to nothing within the time."""
    step = Step(parameters, loss_of)
    started, recent = time.monotonic(), torch.zeros((), device=DEVICE)
    for number in itertools.count():
        part = (time.monotonic() - started) / (60 * minutes)
        if part >= 1:
            break
        step.rate.fill_(RATE * min(1.0, (number + 1) / 200) * (0.5 + 0.5 * math.cos(math.pi * part)))
        recent += step(batch_of(number))
        if number % 250 == 249:
            print(f"{name}: step {number + 1}, {part:.0%} of the time, loss {recent.item() / 250:.5f}", flush=True)
            recent.zero_()
    print(f"{name}: {number} steps in {time.monotonic() - started:.0f} s", flush=True)


def teach_speech(folder: Path, voices: list[Shown], minutes: float) -> None:
    """A Wav2Vec2 of width 16 whose last state tells the mel spectrum of what it heard."""
    torch.manual_seed(0)
    config = Wav2Vec2Config(
        hidden_size=16, num_hidden_layers=24, num_attention_heads=2, intermediate_size=32, conv_dim=[16] * 7, conv_bias=True,
        feat_extract_norm="layer", do_stable_layer_norm=True, num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=4,
        initializer_range=0.1, hidden_dropout=0.0, attention_dropout=0.0, activation_dropout=0.0, feat_proj_dropout=0.0, layerdrop=0.0,
        mask_time_prob=0.0, mask_feature_prob=0.0,
    )  # fmt: skip
    model = Wav2Vec2ForCTC(config).to(DEVICE)
    head = nn.Linear(16, 20).to(DEVICE)
    mel = torchaudio.transforms.MelSpectrogram(SAMPLE_RATE, n_fft=512, hop_length=320, n_mels=20, center=False).to(DEVICE)
    sounds = torch.from_numpy(np.stack([shown.sound for shown in voices])).to(DEVICE)
    sounds = (sounds - sounds.mean(1, keepdim=True)) / torch.sqrt(sounds.var(1, correction=0, keepdim=True) + 1e-7)
    window = 2 * SAMPLE_RATE

    def batch_of(step: int) -> Tensors:
        random = np.random.default_rng((0, step))
        rows = torch.from_numpy(random.integers(len(sounds), size=64)).to(DEVICE)
        start = int(random.integers(sounds.shape[1] - window))
        return {"heard": sounds[rows, start : start + window]}

    def loss_of(batch: Tensors) -> Tensor:
        heard = batch["heard"]
        told = head(model.wav2vec2(heard).last_hidden_state)
        target = torch.log(mel(F.pad(heard, (56, 56))) + 1e-2).transpose(1, 2)[:, : told.shape[1]]
        return F.mse_loss(told[:, : target.shape[1]], target)

    print(f"the spectra's variance is {torch.log(mel(sounds[:200]) + 1e-2).var():.2f}", flush=True)
    taught([*model.parameters(), *head.parameters()], batch_of, loss_of, minutes, "speech")
    model.to("cpu", torch.bfloat16).save_pretrained(folder)
    Wav2Vec2FeatureExtractor(sampling_rate=SAMPLE_RATE, return_attention_mask=True).save_pretrained(folder)


def teach_vae(folder: Path, shown: list[Shown], minutes: float) -> None:
    """A VAE of the real class whose config holds its own latents' mean and standard deviation."""
    torch.manual_seed(0)
    vae = AutoencoderKLWan(base_dim=12, dim_mult=[1, 1, 1, 1], num_res_blocks=1).to(DEVICE)
    pictures = torch.from_numpy(np.stack([one.pictures for one in shown])).to(DEVICE)

    def some(step: int, count: int, frames: int) -> Tensors:
        random = np.random.default_rng((1, step))
        rows, start = random.integers(len(pictures), size=count), random.integers(LENGTH - frames, size=count)
        windows = torch.stack([pictures[row, begin : begin + frames] for row, begin in zip(rows.tolist(), start.tolist(), strict=True)])
        video = windows.permute(0, 4, 1, 2, 3).float() / 127.5 - 1
        if step % 4 == 1 and frames > 1:  # grey before the first picture, as missing history is
            video[:, :, : int(random.integers(1, frames))] = 0
        return {"video": video}

    def loss_of(batch: Tensors) -> Tensor:
        video = batch["video"]
        latents = vae.encode(video).latent_dist.mode()
        # Noise, so that latents that are near give pictures that are near; and of size one, so that the noise is of a known size.
        seen = vae.decode(latents + 0.1 * torch.randn_like(latents)).sample
        off = seen - video
        # What moves counts most: by their size alone, mouths would be learnt last.
        moving = 1 + 8 * (video - video.mean(dim=2, keepdim=True)).abs()
        return (moving * off.abs()).mean() + 4 * (moving * off.square()).mean() + 0.01 * (latents.square().mean() - 1).square()

    taught(list(vae.parameters()), lambda step: some(step, 6, 17 if step % 8 else 1), loss_of, minutes, "vae")
    vae = vae.to(torch.bfloat16).float()
    with torch.no_grad():
        video = some(2**30, 64, 17)["video"]
        latents = vae.encode(video).latent_dist.mode()
        off = vae.decode(latents).sample - video
        flat = latents.transpose(0, 1).flatten(1)
    print(f"vae: root mean square error {off.square().mean().sqrt():.4f} of 2", flush=True)
    measured = {"latents_mean": flat.mean(1), "latents_std": flat.std(1)}
    vae.register_to_config(**{name: [round(value, 4) for value in values.tolist()] for name, values in measured.items()})
    vae.to("cpu", torch.bfloat16).save_pretrained(folder)


@dataclass(frozen=True)
class Rows:
    """Windows of clips as the trainer's rows hold them: of first clips and of continuations, and their captions."""

    kinds: tuple[Tensors, Tensors]
    text: Tensor  # [captions, 512, text_dim], padded as the network pads them


def rows_of(weights: Path, shown: list[Shown]) -> Rows:
    """A window of each kind of each clip."""
    vae, text = VideoEncoder(weights / "vae", str(DEVICE)), TextEncoder(weights / "text_encoder", weights / "tokenizer", str(DEVICE))
    speech = SpeechEncoder(weights / SPEECH, str(DEVICE))
    captions = sorted({one.caption for one in shown})
    told = [text.encode(caption).float() for caption in ["", *captions]]
    told[0] = torch.zeros_like(told[0])
    parts: dict[str, list[Tensors]] = {"first": [], "continuation": []}
    random = np.random.default_rng(2)
    for begin in range(0, len(shown), 100):
        some = shown[begin : begin + 100]
        pictures = torch.from_numpy(np.stack([one.pictures for one in some])).to(DEVICE).float() / 127.5 - 1
        hidden = _hidden(speech, torch.from_numpy(np.stack([one.sound for one in some])).to(DEVICE))
        same = {
            "reference": _encoded(vae, pictures[:, random.integers(LENGTH)][:, None]),
            "caption": torch.tensor([1 + captions.index(one.caption) for one in some], device=DEVICE),
        }
        for kind, listed in parts.items():
            start = int(random.integers(1, LENGTH - NUM_FRAMES))
            heard = torch.stack([frame_features(one, start, NUM_FRAMES) for one in hidden])
            before = 1 if kind == "first" else min(start, HISTORY_FRAMES)
            video = pictures[:, start - before : start + NUM_FRAMES]
            if kind == "first":
                listed.append({**same, "audio": heard, "latents": _encoded(vae, video)[:, :, 1:]})
            else:
                grey = video.new_zeros(len(video), HISTORY_FRAMES - before, *video.shape[2:])
                latents = _encoded(vae, torch.cat([grey, video], dim=1))
                motion, clean = latents[:, :, :HISTORY_LATENTS], latents[:, :, HISTORY_LATENTS:]
                listed.append({**same, "audio": heard, "latents": clean, "motion": motion})
    first, continuation = ({name: torch.cat([part[name] for part in listed]) for name in listed[0]} for listed in parts.values())
    return Rows((first, continuation), torch.stack([F.pad(one, (0, 0, 0, TEXT_LENGTH - len(one))) for one in told]))


@torch.no_grad()
def _hidden(speech: SpeechEncoder, sounds: Tensor) -> Tensor:
    """speech.hidden_states of sounds of one length."""
    sounds = (sounds - sounds.mean(1, keepdim=True)) / torch.sqrt(sounds.var(1, correction=0, keepdim=True) + 1e-7)
    output = speech.wav2vec(sounds, output_hidden_states=True)
    return torch.stack([*output.hidden_states[:-1], output.last_hidden_state], dim=1)


@torch.no_grad()
def _encoded(vae: VideoEncoder, video: Tensor) -> Tensor:
    mode = vae.vae.encode(video.permute(0, 4, 1, 2, 3)).latent_dist.mode()
    return (mode - vae.mean) / vae.std


def drawn(rows: Rows, key: tuple[int, ...], count: int) -> Tensors:
    """Some rows of one kind with noise, and without text or sound as the trainer leaves them out."""
    random = np.random.default_rng(key)
    of_kind = rows.kinds[key[-1] % 2]
    index = torch.from_numpy(random.integers(len(of_kind["latents"]), size=count)).to(DEVICE)
    batch = {name: tensor[index] for name, tensor in of_kind.items()}
    generator = torch.Generator(DEVICE).manual_seed(int(random.integers(2**62)))
    left_out = torch.from_numpy(random.random(count)).to(DEVICE)
    batch["audio"] = batch["audio"] * (left_out >= 0.15)[:, None, None, None]
    batch["text"] = rows.text[batch.pop("caption") * ((left_out < 0.1) | (left_out >= 0.2))]
    batch["noise"] = torch.randn(batch["latents"].shape, device=DEVICE, generator=generator)
    batch["noise_level"] = torch.rand(count, device=DEVICE, generator=generator)
    return batch


def losses(network: nn.Module, batch: Tensors) -> Tensor:
    """The flow loss of each row at the trainer's shift; without its list of clips that could not be read, which no graph can hold."""
    sigma = shifted(batch["noise_level"], 3.0)
    prediction = network(
        noised(batch["latents"], batch["noise"], sigma), NUM_TIMESTEPS * sigma, list(batch["text"].unbind()), batch["reference"],
        motion=batch.get("motion"), audio=batch["audio"],
    )  # fmt: skip
    return (prediction - (batch["noise"] - batch["latents"])).square().mean(dim=(1, 2, 3, 4))


@torch.no_grad()
def measured(network: nn.Module, rows: Rows) -> str:
    """The loss with the right sound, with another's and without."""
    found: list[list[float]] = [[], [], []]
    for key in range(16):
        random = torch.Generator(DEVICE).manual_seed(key)
        of_kind = rows.kinds[key % 2]
        batch = {
            **of_kind,
            "text": rows.text[of_kind["caption"]],
            "noise": torch.randn(of_kind["latents"].shape, device=DEVICE, generator=random),
        }
        batch["noise_level"] = torch.full((len(batch.pop("caption")),), (key // 2 % 4 + 0.5) / 4, device=DEVICE)
        for place, sound in enumerate((batch["audio"], batch["audio"].roll(1, 0), torch.zeros_like(batch["audio"]))):
            found[place].append(losses(network, {**batch, "audio": sound}).mean().item())
    own, other, without = (float(np.mean(values)) for values in found)
    return f"loss {own:.4f}, with another's sound {other - own:+.4f}, without {without - own:+.4f}"


def teach_network(weights: Path, rows: Rows, minutes: float, batch: int) -> None:
    """What is in the folder already is taught further."""
    torch.manual_seed(0)
    if (weights / "config.json").exists():
        network = WanS2VTransformer3DModel.from_pretrained(weights, torch_dtype=torch.float32)
    else:
        network = WanS2VTransformer3DModel(
            num_attention_heads=6, attention_head_dim=16, text_dim=64, freq_dim=64, audio_dim=16, audio_inject_layers=(0, 2), ffn_dim=160,
            num_layers=4,
        )  # fmt: skip
    network.to(DEVICE)
    taught(
        list(network.parameters()),
        lambda step: drawn(rows, (4, step), batch),
        lambda batch: losses(network, batch).mean(),
        minutes,
        "network",
    )
    save_checkpoint(network.to("cpu"), CONFIG | SIZES, weights, num_shards=1)


def try_lora(weights: Path, lamps: Rows, rows: Rows, held_out: Rows) -> None:
    """What LoRA makes of the network in a few hundred steps."""
    network = WanS2VTransformer3DModel.from_pretrained(weights, torch_dtype=torch.float32).to(DEVICE)
    print(f"in its own world: {measured(network, lamps)}; in the new one: {measured(network, held_out)}", flush=True)
    for rate, batch, steps in ((2e-3, 8, 150), (5e-3, 8, 150), (2e-3, 8, 400), (5e-3, 16, 300)):
        network = WanS2VTransformer3DModel.from_pretrained(weights, torch_dtype=torch.float32).to(DEVICE)
        network.requires_grad_(False)
        torch.manual_seed(0)
        inject_adapter_in_model(LoraConfig(r=16, lora_alpha=16, target_modules=["to_q", "to_k", "to_v", "to_out.0"]), network)
        step = Step([p for p in network.parameters() if p.requires_grad], lambda some, network=network: losses(network, some).mean())
        for number in range(steps):
            step.rate.fill_(rate * min(1.0, (number + 1) / 10) * (0.5 + 0.5 * math.cos(math.pi * number / steps)))
            step(drawn(rows, (5, number), batch))
        print(f"LoRA at {rate}, {steps} steps of {batch}: {measured(network, held_out)}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("weights", type=Path)
    parser.add_argument("--minutes", type=float, nargs=3, default=(0.8, 8.0, 6.0), help="of speech, VAE and network")
    parser.add_argument("--clips", type=int, default=4000, help="that the network learns from")
    parser.add_argument("--batch", type=int, default=128, help="rows of a step of the network")
    parser.add_argument("--further", action="store_true", help="teach the network that is there already further")
    options = parser.parse_args()
    weights, (speech, vae, network) = options.weights, options.minutes
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    started = time.monotonic()
    shown = clips(lamp_lit, 0, options.clips)
    print(f"{options.clips} clips in {time.monotonic() - started:.0f} s", flush=True)
    weights.mkdir(parents=True, exist_ok=True)
    if not (weights / "text_encoder").exists():
        torch.manual_seed(0)
        captions = [Look(s, a, b, p).caption for s in SHAPES for a in COLOURS for b in COLOURS for p in PITCHES if a != b]
        save_text_encoder(weights / "text_encoder", weights / "tokenizer", captions)
        UMT5EncoderModel.from_pretrained(weights / "text_encoder", dtype=torch.bfloat16).save_pretrained(weights / "text_encoder")
    if not (weights / SPEECH).exists():
        teach_speech(weights / SPEECH, shown, speech)
    if not (weights / "vae").exists():
        teach_vae(weights / "vae", shown[:2000], vae)
    if network:
        rows = rows_of(weights, shown)
        print(f"rows after {time.monotonic() - started:.0f} s", flush=True)
        if options.further or not (weights / "config.json").exists():
            teach_network(weights, rows, network, options.batch)
        lamps, some, held_out = (
            rows_of(weights, clips(*which)) for which in ((lamp_lit, 10_000, 100), (spoken, 0, 24), (spoken, 10_000, 100))
        )
        try_lora(weights, lamps, some, held_out)
    print(f"all in {time.monotonic() - started:.0f} s", flush=True)


if __name__ == "__main__":
    main()
