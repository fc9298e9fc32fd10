"""The loss of held-out clips at fixed noise and levels, and how much of it hangs on their sound.

It does not depend on the step, the run's seed, the ZeRO stage or the number of workers, and it leaves training as it was.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

from ray_s2v.data.draws import generator
from ray_s2v.model.flow import clip_losses
from ray_s2v.ranks import everyone
from ray_s2v.schema import Batch, RunStopped
from ray_s2v.training.engine import Engine


@dataclass(frozen=True)
class Sample:
    """A held-out clip of this worker."""

    batch: Batch  # of this clip alone, on the CPU
    other_sound: Tensor | None  # of another clip, like the batch's; None for a clip that is not compared


@dataclass(frozen=True)
class HeldOut:
    """How well the held-out clips are met; means are over clips and levels. A continuation is a clip of its own."""

    loss: float
    loss_without_sound: float | None  # of the compared clips given zeros; None, as all about them, where there are none
    loss_with_other_sound: float | None  # of the compared clips given the sound of another
    worse_without_sound: float | None  # by how much than the same clips with their own
    worse_with_other_sound: float | None
    by_level: list[float]  # with their own sound, from the least noise to the most
    clips: dict[str, float]  # the loss of each
    not_compared: list[str]  # clips without sound, or of a bucket and kind that no other clip with sound has
    unreadable: dict[str, str]  # clip -> reason; such a clip is in none of the figures


@dataclass(frozen=True)
class _Measured:
    slot: int
    name: str
    error: str
    is_compared: bool
    losses: list[tuple[float, float, float]]  # at each level, with its own sound, without, and with another's


def with_other_sounds(batches: Sequence[Batch]) -> list[Sample]:
    """This worker's clips, each with the sound of the next one of its bucket and kind, whichever worker has that. A collective.

    batches: of one clip each, on the CPU, in the order of data/held_out.py's `shared_out`.
    """
    assert all(len(batch.slots) == 1 and batch.audio.device.type == "cpu" for batch in batches)
    shapes = everyone([_shape(batch) for batch in batches])
    assert all(share == shapes[0] for share in shapes), "under ZeRO-3 workers must run the same modules at the same time"
    samples = []
    for _, group in groupby(batches, _shape):
        own = list(group)
        sounds = [sound for share in everyone([_sound(batch) for batch in own]) for sound in share]
        # By slot, so that the order is the list's, whoever has which; a repetition of a clip changes nothing.
        heard = {name: sound for _, name, sound in sorted(sounds, key=lambda one: one[0]) if sound is not None}
        names = list(heard)
        after = {name: names[(place + 1) % len(names)] for place, name in enumerate(names)} if len(names) > 1 else {}
        samples += [Sample(batch, heard[after[_name(batch)]] if _name(batch) in after else None) for batch in own]
    return samples


def held_out_loss(engine: Engine, samples: Iterable[Sample], levels: int) -> HeldOut:
    """The same on every worker, between two optimizer steps; three forward passes for each clip and level. A collective.

    levels: how many, at (i + 0.5) / levels before the flow's shift. Raises RunStopped on all workers alike where no clip can be read
    or a loss is not finite.
    """
    with evaluating(engine.deepspeed):
        own = [_measured(engine, sample, levels) for sample in samples]
    everyones = sorted((one for share in everyone(own) for one in share), key=lambda one: one.slot)
    measured = list({one.name: one for one in everyones}.values())  # without repetitions
    unreadable = {one.name: one.error for one in measured if one.error}
    readable = [one for one in measured if not one.error]
    if not readable:
        reasons = "; ".join(f"{name}: {error}" for name, error in unreadable.items())
        raise RunStopped(f"none of the held-out clips could be read: {reasons}")
    if bad := [one.name for one in readable if not all(math.isfinite(loss) for at_level in one.losses for loss in at_level)]:
        raise RunStopped(f"not finite: the loss of the held-out {', '.join(bad)}")
    compared = [at_level for one in readable if one.is_compared for at_level in one.losses]
    return HeldOut(
        loss=_mean([own for one in readable for own, _, _ in one.losses]),
        loss_without_sound=_mean([without for _, without, _ in compared]) if compared else None,
        loss_with_other_sound=_mean([other for _, _, other in compared]) if compared else None,
        worse_without_sound=_mean([without - own for own, without, _ in compared]) if compared else None,
        worse_with_other_sound=_mean([other - own for own, _, other in compared]) if compared else None,
        by_level=[_mean([one.losses[level][0] for one in readable]) for level in range(levels)],
        clips={one.name: _mean([own for own, _, _ in one.losses]) for one in readable},
        not_compared=[one.name for one in readable if not one.is_compared],
        unreadable=unreadable,
    )


@contextmanager
def evaluating(network: Any) -> Iterator[None]:
    network.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        network.train()


def _measured(engine: Engine, sample: Sample, levels: int) -> _Measured:
    clip = _on(engine.device, sample.batch)
    # A clip that is not compared goes through the network as often as the others: so many passes the other workers make meanwhile.
    other = clip.audio if sample.other_sound is None else sample.other_sound.to(engine.device)
    sounds = (clip.audio, torch.zeros_like(clip.audio), other)
    losses = []
    for level in range(levels):
        at_level = replace(clip, noise=_noise(clip, level), noise_level=torch.full_like(clip.noise_level, (level + 0.5) / levels))
        own, without, with_other = (clip_losses(engine.deepspeed, replace(at_level, audio=sound), engine.shift).item() for sound in sounds)
        losses.append((own, without, with_other))
    return _Measured(clip.slots[0], _name(clip), clip.errors[0], sample.other_sound is not None, losses)


def _noise(clip: Batch, level: int) -> Tensor:
    """The clip's own at each level, drawn on the CPU: the same on every device."""
    seed = int(generator("held out", clip.seed, level).integers(2**63))
    return torch.randn(clip.latents.shape, generator=torch.Generator().manual_seed(seed)).to(clip.latents.device)


def _on(device: torch.device, batch: Batch) -> Batch:
    moved: dict[str, Any] = {name: value.to(device) for name, value in vars(batch).items() if isinstance(value, Tensor)}
    return replace(batch, **moved, text=[text.to(device) for text in batch.text])


def _shape(batch: Batch) -> tuple[tuple[int, ...], bool]:
    """What a bucket and a kind are to the network."""
    return tuple(batch.latents.shape), batch.motion is not None


def _name(batch: Batch) -> str:
    return batch.clip_ids[0] if batch.motion is None else f"{batch.clip_ids[0]} (continuation)"


def _sound(batch: Batch) -> tuple[int, str, Tensor | None]:
    """Slot, name, and the sound if the clip has any that could be read."""
    return batch.slots[0], _name(batch), batch.audio if not batch.errors[0] and batch.audio.any() else None


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)
