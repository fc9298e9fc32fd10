"""Feature rows to a batch: what goes where, and noise that depends on the row's seed alone."""

from typing import Any

import numpy as np
import pytest
import torch

from ray_s2v.model.condition import collated

CPU = torch.device("cpu")
LATENT_FRAMES, HEIGHT, WIDTH = 4, 3, 5


def row(slot: int = 0, **changes: Any) -> dict[str, Any]:
    """As it comes through Ray: NumPy's numbers, and arrays that cannot be written to."""
    kind = changes.get("kind", "first")
    random = np.random.default_rng(slot)
    frames = LATENT_FRAMES + (19 if kind == "continuation" else 0)
    arrays = {
        "latents": random.standard_normal((16, frames, HEIGHT, WIDTH), dtype=np.float32),
        "reference": random.standard_normal((16, 1, HEIGHT, WIDTH), dtype=np.float32),
        "audio": random.standard_normal((25, 8, 4 * LATENT_FRAMES), dtype=np.float32),
        "text": random.standard_normal((3 + slot, 8), dtype=np.float32),
    }
    for array in arrays.values():
        array.flags.writeable = False
    facts = {
        "step": np.int64(7),
        "slot": np.int64(slot),
        "clip_id": f"clips/{slot}.mp4",
        "kind": "first",
        "drop_audio": np.bool_(False),
        "noise_level": np.float64(0.125 + slot / 8),
        "noise_seed": np.int64(2**62 + slot),
        "error": "",
    }
    return arrays | facts | changes


def test_first_clips() -> None:
    rows = [row(0), row(2)]
    batch = collated(rows, CPU)
    assert (batch.step, batch.slots, batch.clip_ids, batch.errors) == (7, [0, 2], ["clips/0.mp4", "clips/2.mp4"], ["", ""])
    assert batch.motion is None
    assert batch.latents.shape == (2, 16, LATENT_FRAMES, HEIGHT, WIDTH)
    for position, given in enumerate(rows):
        assert np.array_equal(batch.latents[position], given["latents"])
        assert np.array_equal(batch.reference[position], given["reference"])
        assert np.array_equal(batch.audio[position], given["audio"])
        assert np.array_equal(batch.text[position], given["text"])
    assert [len(text) for text in batch.text] == [3, 5]
    assert batch.noise.shape == batch.latents.shape
    assert batch.noise_level.tolist() == [0.125, 0.375]
    assert batch.errors == ["", ""]
    tensors = [batch.latents, batch.reference, batch.audio, batch.noise, batch.noise_level, *batch.text]
    assert {tensor.dtype for tensor in tensors} == {torch.float32}


def test_continuation_is_split_into_motion_and_clip() -> None:
    rows = [row(slot, kind="continuation") for slot in range(2)]
    batch = collated(rows, CPU)
    assert batch.motion is not None
    assert batch.motion.shape == (2, 16, 19, HEIGHT, WIDTH)
    assert batch.latents.shape == batch.noise.shape == (2, 16, LATENT_FRAMES, HEIGHT, WIDTH)
    for position, given in enumerate(rows):
        assert np.array_equal(batch.motion[position], given["latents"][:, :19])
        assert np.array_equal(batch.latents[position], given["latents"][:, 19:])


def test_dropped_sound_is_zeros_for_that_clip_alone() -> None:
    rows = [row(0), row(1, drop_audio=np.bool_(True)), row(2)]
    audio = collated(rows, CPU).audio
    assert (audio[1] == 0).all()
    assert np.array_equal(audio[0], rows[0]["audio"])
    assert np.array_equal(audio[2], rows[2]["audio"])


def test_noise_is_a_function_of_the_seed_alone() -> None:
    seed = np.int64(2**63 - 1)
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


def test_unreadable_clip_weighs_nothing_and_keeps_its_reason() -> None:
    batch = collated([row(0), row(1, error="the file is empty"), row(2)], CPU)
    assert [bool(error) for error in batch.errors] == [False, True, False]
    assert batch.errors == ["", "the file is empty", ""]


@pytest.mark.parametrize(
    "other",
    [
        row(1, kind="continuation"),
        row(1, kind="continuation", latents=np.zeros((16, LATENT_FRAMES, HEIGHT, WIDTH), np.float32)),
        row(1, step=8),
        row(1, latents=np.zeros((16, LATENT_FRAMES, HEIGHT, WIDTH + 2), np.float32)),
        row(1, latents=np.zeros((16, LATENT_FRAMES + 1, HEIGHT, WIDTH), np.float32)),
    ],
    ids=["kind and length", "kind alone", "step", "size", "length"],
)
def test_rows_that_do_not_belong_together_are_refused(other: dict[str, Any]) -> None:
    with pytest.raises(AssertionError):
        collated([row(0), other], CPU)
