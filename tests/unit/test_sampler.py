"""Videos made clip by clip: which frames, which sound, which history, and the same again from the same seed."""

from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor

from ray_s2v.config.sampling import Sampling
from ray_s2v.demo.encoder_weights import save_vae
from ray_s2v.encoders.vae import VideoEncoder
from ray_s2v.schema import HISTORY_FRAMES
from ray_s2v.validation.sampler import Conditions, decoded, lost_frames, num_clips, sampled_clips, sampled_latents
from tests.tiny import TINY, tiny_network

QUICK = Sampling(size="64x64", steps=3, num_frames=8, seed=0)
LAYERS, WIDTH = TINY["num_weighted_avg_layers"], TINY["audio_dim"]


@pytest.fixture(scope="module")
def vae(tmp_path_factory: pytest.TempPathFactory) -> VideoEncoder:
    folder = tmp_path_factory.mktemp("vae")
    save_vae(folder / "vae")
    return VideoEncoder(folder / "vae")


def conditions(frames: int = 8) -> Conditions:
    draw = torch.Generator().manual_seed(3)
    return Conditions(
        picture=torch.rand(64, 64, 3, generator=draw) * 2 - 1,
        reference=torch.randn(1, 16, 1, 8, 8, generator=draw),
        text=torch.randn(5, TINY["text_dim"], generator=draw),
        negative=torch.randn(3, TINY["text_dim"], generator=draw),
        speech=torch.randn(LAYERS, WIDTH, frames, generator=draw),
    )


@dataclass
class Field:
    """A velocity field that has noted what it was asked with; it pulls everything to the mean of what it hears and reads."""

    asked: list[dict[str, Any]] = field(default_factory=list)

    def __call__(self, latents: Tensor, at: Tensor, text: list[Tensor], reference: Tensor, **rest: Any) -> Tensor:
        self.asked.append({"at": at.item(), "text": text[0], "reference": reference, **rest})
        return latents - reference - rest["audio"].mean() - text[0].mean()


def but(**changes: Any) -> Sampling:
    return QUICK.model_copy(update=changes)


def ignore(*_: Any) -> None:
    """What nobody wants to be told."""


def test_frames_of_a_first_clip_and_of_a_continuation(vae: VideoEncoder) -> None:
    draw = torch.Generator().manual_seed(0)
    latents, reference, motion = (torch.randn(16, frames, 8, 8, generator=draw) for frames in (2, 1, 19))
    first, later = decoded(vae, latents, reference, None), decoded(vae, latents, reference, motion)
    assert (len(first), len(later)) == (5, 8)
    assert torch.equal(first, vae.decode(torch.cat([reference, latents], 1))[4:].clamp(-1, 1))
    assert torch.equal(later, vae.decode(torch.cat([motion, latents], 1))[73:].clamp(-1, 1))
    with_more = decoded(vae, torch.cat([latents, latents], 1), reference, None)
    assert torch.equal(with_more[: len(first)], first), "what comes later changes no frame before it"


def test_each_clip_goes_on_from_the_frames_before_it(vae: VideoEncoder) -> None:
    field, shown = Field(), conditions(frames=20)
    clips = list(sampled_clips(field, vae, shown, but(guidance=1.0), ignore))
    assert [len(frames) for frames in clips] == [5, 8, 8]
    assert len(field.asked) == 3 * QUICK.steps
    first, second, third = (field.asked[clip * QUICK.steps : (clip + 1) * QUICK.steps] for clip in range(3))
    assert all(one["motion"] is None for one in first)
    grey = torch.zeros(HISTORY_FRAMES, 64, 64, 3)
    for asked, history in ((second, clips[0]), (third, torch.cat(clips[:2]))):
        expected = vae.encode_scaled(torch.cat([grey, history])[-HISTORY_FRAMES:])
        assert all(torch.equal(one["motion"][0], expected) for one in asked)


def test_a_first_clip_can_go_on_from_the_picture(vae: VideoEncoder) -> None:
    field, shown = Field(), conditions(frames=16)
    settings = but(guidance=1.0, init_first_frame=True)
    clips = list(sampled_clips(field, vae, shown, settings, ignore))
    assert [len(frames) for frames in clips] == [8, 8]
    assert lost_frames(settings) == 0
    history = torch.zeros(HISTORY_FRAMES, 64, 64, 3)
    history[67:] = shown.picture
    assert torch.equal(field.asked[0]["motion"][0], vae.encode_scaled(history))
    assert torch.equal(field.asked[-1]["motion"][0], vae.encode_scaled(torch.cat([history, clips[0]])[-HISTORY_FRAMES:]))


def test_how_many_clips_show_a_sound() -> None:
    assert [num_clips(frames, QUICK) for frames in (1, 8, 9, 16, 17)] == [1, 1, 2, 2, 3]


def test_each_clip_hears_its_own_sound_and_silence_after_the_end(vae: VideoEncoder) -> None:
    field, shown = Field(), conditions(frames=20)
    list(sampled_clips(field, vae, shown, but(guidance=1.0), ignore))
    for clip in range(3):
        heard = field.asked[clip * QUICK.steps]["audio"][0]
        own = shown.speech[..., 8 * clip : 8 * clip + 8]
        assert torch.equal(heard[..., : own.shape[-1]], own)
        assert not heard[..., own.shape[-1] :].any()
        assert heard.shape[-1] == 8


def test_guidance_leads_away_from_the_negative_prompt_and_silence() -> None:
    shown = conditions()
    guided = Field()
    found = sampled_latents(guided, shown, None, shown.speech, but(guidance=4.5), 0, ignore)
    with_words, without = guided.asked[::2], guided.asked[1::2]
    assert all(one["text"] is shown.text and one["audio"].any() for one in with_words)
    assert all(one["text"] is shown.negative and not one["audio"].any() for one in without)
    # The field is linear in what it hears and reads: guidance moves that.
    audio, text = shown.speech.mean(), shown.text.mean()
    pulled = shown.negative.mean() + 4.5 * (audio + text - shown.negative.mean())

    def moved(latents: Tensor, at: Tensor, text: list[Tensor], reference: Tensor, **rest: Any) -> Tensor:
        return latents - reference - pulled

    torch.testing.assert_close(found, sampled_latents(moved, shown, None, shown.speech, but(guidance=1.0), 0, ignore))


@pytest.mark.parametrize("solver", ["unipc", "euler"])
def test_a_straight_flow_ends_at_its_target(solver: Any) -> None:
    """From noise at the largest level, along the velocity (x - target) / level, any solver arrives."""
    shown, target = conditions(), torch.randn(1, 16, 2, 8, 8, generator=torch.Generator().manual_seed(9))

    def straight(latents: Tensor, at: Tensor, *_: Any, **__: Any) -> Tensor:
        return (latents - target) / (at / 1000)

    settings = but(solver=solver, steps=40, guidance=1.0)
    found = sampled_latents(straight, shown, None, shown.speech, settings, 0, ignore)
    # UniPC's timesteps are cut to integers: the last, of level 0.0718, is off by up to one in 71.
    torch.testing.assert_close(found, target[0], atol=1e-4 if solver == "euler" else 0.1, rtol=0)


def test_the_seed_decides(vae: VideoEncoder) -> None:
    model, shown = tiny_network(), conditions(frames=16)
    told: list[tuple[int, int]] = []

    def video(settings: Sampling) -> Tensor:
        told.clear()
        return torch.cat(list(sampled_clips(model, vae, shown, settings, lambda clip, step, _: told.append((clip, step)))))

    once = video(QUICK)
    assert told == [(clip, step) for clip in range(2) for step in (1, 2, 3)]
    assert torch.equal(video(QUICK), once)
    assert not torch.allclose(video(but(seed=1)), once, atol=1e-2)
