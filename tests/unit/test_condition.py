"""Feature rows to a batch: what goes where, and noise that depends on the row's seed alone."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from ray_s2v.data.rows import to_row, to_table
from ray_s2v.model.condition import collated

CPU = torch.device("cpu")
LATENT_FRAMES, HEIGHT, WIDTH = 4, 3, 5
LAYERS, AUDIO_DIM, TEXT_DIM = 25, 8, 6


def row(slot: int = 0, **changes: Any) -> dict[str, Any]:
    """As the workers have it from Ray Data: arrays that cannot be written to, in half precision."""
    kind = changes.get("kind", "first")
    frames = LATENT_FRAMES + (19 if kind == "continuation" else 0)
    facts = {
        "step": 7,
        "slot": slot,
        "clip_id": f"clips/{slot}.mp4",
        "kind": "first",
        "drop_audio": False,
        "noise_level": 0.125 + slot / 8,
        "noise_seed": 2**62 + slot,
        "latents": latents(slot, frames),
        "reference": latents(slot + 100, 1),
        "speech": np.random.default_rng(slot).standard_normal((4 * LATENT_FRAMES, LAYERS, AUDIO_DIM)).astype(np.float16),
        "text": bits_of(text(slot)),
        "video_error": "",
        "speech_error": "",
    }
    given = to_row(to_table(facts | changes))
    assert not given["latents"].flags.writeable
    return given


def latents(seed: int, frames: int = LATENT_FRAMES, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((16, frames, height, width)).astype(np.float16)


def text(slot: int) -> torch.Tensor:
    return torch.randn(3 + slot, TEXT_DIM, generator=torch.Generator().manual_seed(slot)).bfloat16()


def bits_of(embedding: torch.Tensor) -> np.ndarray:
    """The upper halves of the float32 numbers, which is what bfloat16 is."""
    return (embedding.float().numpy().view(np.uint32) >> 16).astype(np.uint16)


def test_first_clips() -> None:
    rows = [row(0), row(2)]
    batch = collated(rows, CPU)
    assert (batch.step, batch.slots, batch.clip_ids, batch.errors) == (7, [0, 2], ["clips/0.mp4", "clips/2.mp4"], ["", ""])
    assert batch.motion is None
    assert batch.pose is None
    assert batch.latents.shape == (2, 16, LATENT_FRAMES, HEIGHT, WIDTH)
    for position, given in enumerate(rows):
        assert np.array_equal(batch.latents[position], given["latents"])
        assert np.array_equal(batch.reference[position], given["reference"])
        assert torch.equal(batch.text[position], text(given["slot"]).float())
    assert [len(embedding) for embedding in batch.text] == [3, 5]
    assert batch.noise.shape == batch.latents.shape
    assert batch.noise_level.tolist() == [0.125, 0.375]
    assert batch.seed == 2**62
    tensors = [batch.latents, batch.reference, batch.audio, batch.noise, batch.noise_level, *batch.text]
    assert {tensor.dtype for tensor in tensors} == {torch.float32}


def test_sound_is_turned_to_layers_width_and_frames() -> None:
    rows = [row(0), row(2)]
    audio = collated(rows, CPU).audio
    assert audio.shape == (2, LAYERS, AUDIO_DIM, 4 * LATENT_FRAMES)
    assert audio.is_contiguous()
    for position, given in enumerate(rows):
        for frame in range(4 * LATENT_FRAMES):
            assert np.array_equal(audio[position, :, :, frame], given["speech"][frame])


def test_continuation_is_split_into_motion_and_clip() -> None:
    rows = [row(slot, kind="continuation") for slot in range(2)]
    batch = collated(rows, CPU)
    assert batch.motion is not None
    assert batch.motion.shape == (2, 16, 19, HEIGHT, WIDTH)
    assert batch.latents.shape == batch.noise.shape == (2, 16, LATENT_FRAMES, HEIGHT, WIDTH)
    for position, given in enumerate(rows):
        assert np.array_equal(batch.motion[position], given["latents"][:, :19])
        assert np.array_equal(batch.latents[position], given["latents"][:, 19:])


@pytest.mark.parametrize("kind", ["first", "continuation"])
def test_poses_are_zeros_for_clips_without(kind: str) -> None:
    """Of the window alone, also where motion lies before it."""
    rows = [row(0, kind=kind), row(1, kind=kind, pose_latents=latents(50)), row(2, kind=kind)]
    pose = collated(rows, CPU).pose
    assert pose is not None
    assert pose.shape == (3, 16, LATENT_FRAMES, HEIGHT, WIDTH)
    assert pose.dtype == torch.float32
    assert np.array_equal(pose[1], latents(50))
    assert not pose[[0, 2]].any()
    every = collated([row(slot, kind=kind, pose_latents=latents(50 + slot)) for slot in range(2)], CPU).pose
    assert every is not None
    assert np.array_equal(every, np.stack([latents(50), latents(51)]))


def test_pose_of_another_length_is_refused() -> None:
    """The window's first latent is its frames 0 to 3; one frame more in front would shift all of them."""
    with pytest.raises(RuntimeError):
        collated([row(0), row(1, pose_latents=latents(50, LATENT_FRAMES + 1))], CPU)


def test_dropped_sound_is_zeros_for_that_clip_alone() -> None:
    rows = [row(0), row(1, drop_audio=True), row(2)]
    audio = collated(rows, CPU).audio
    assert (audio[1] == 0).all()
    assert np.array_equal(audio[0], rows[0]["speech"].transpose(1, 2, 0))
    assert np.array_equal(audio[2], rows[2]["speech"].transpose(1, 2, 0))


def test_noise_is_a_function_of_the_seed_alone() -> None:
    seed = 2**63 - 1
    torch.manual_seed(1)
    alone = collated([row(0, noise_seed=seed)], CPU).noise[0]
    torch.manual_seed(2)
    beside = collated([row(3), row(4), row(5, noise_seed=seed)], CPU).noise[2]
    continued = collated([row(0, kind="continuation", noise_seed=seed)], CPU).noise[0]
    assert torch.equal(alone, beside)
    assert torch.equal(alone, continued)
    assert torch.equal(alone, torch.randn(16, LATENT_FRAMES, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(2**63 - 1)))
    assert not torch.equal(alone, collated([row(0, noise_seed=seed - 1)], CPU).noise[0])


def test_noise_leaves_the_global_generator_alone() -> None:
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    collated([row(0), row(1)], CPU)
    assert torch.equal(torch.rand(4), expected)


def test_changing_a_batch_changes_no_row() -> None:
    """The rows' arrays are views into what other processes of the machine share."""
    given = row(0, pose_latents=latents(50))
    before = {name: value.copy() for name, value in given.items() if isinstance(value, np.ndarray)}
    batch = collated([given], CPU)
    assert batch.pose is not None
    for tensor in (batch.latents, batch.reference, batch.pose, batch.audio, *batch.text):
        tensor.fill_(7)
    assert all(np.array_equal(given[name], value) for name, value in before.items())


@pytest.mark.parametrize(
    ("video", "speech", "told"),
    [
        ("the file is empty", "", "the file is empty"),
        ("", "the sound is too short", "the sound is too short"),
        ("the file is empty", "no audio stream", "the file is empty"),
    ],
)
def test_unreadable_clip_keeps_its_reason(video: str, speech: str, told: str) -> None:
    batch = collated([row(0), row(1, video_error=video, speech_error=speech), row(2)], CPU)
    assert batch.errors == ["", told, ""]


@pytest.mark.parametrize(
    "other",
    [
        lambda: row(1, kind="continuation"),
        lambda: row(1, kind="continuation", latents=latents(1)),
        lambda: row(1, step=8),
        lambda: row(1, latents=latents(1, width=WIDTH + 2)),
        lambda: row(1, latents=latents(1, LATENT_FRAMES + 1)),
    ],
    ids=["kind and length", "kind alone", "step", "size", "length"],
)
def test_rows_that_do_not_belong_together_are_refused(other: Callable[[], dict[str, Any]]) -> None:
    with pytest.raises(AssertionError):
        collated([row(0), other()], CPU)
