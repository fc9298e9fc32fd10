"""The audio encoder and the audio injection alone."""

from pathlib import Path
from typing import Any

import pytest
import torch

from ray_s2v.model.transformer import WanS2VTransformer3DModel

from .vectors import Case, load_facts

TOLERANCE = {"atol": 1e-5, "rtol": 0.0}


@pytest.mark.parametrize("length", [1, 4, 21, 93])
def test_encoder(network: WanS2VTransformer3DModel, model_case: Case, length: int) -> None:
    case = model_case("audio_encoder")
    global_vector, local = network.condition_embedder.causal_audio_encoder(case[f"T{length}.in"])
    torch.testing.assert_close(global_vector, case[f"T{length}.global"], **TOLERANCE)
    torch.testing.assert_close(local, case[f"T{length}.local"], **TOLERANCE)


@pytest.mark.parametrize("label", ["normal", "small"])
@pytest.mark.parametrize(("index", "block"), [(0, 0), (1, 2), (2, 4)])
def test_injection(golden: Path, network: WanS2VTransformer3DModel, model_case: Case, label: str, index: int, block: int) -> None:
    """The small hidden states show the adaptive norm's epsilon of 1e-5."""
    case = model_case("audio_injection")
    facts = load_facts(golden / "model_a", "audio_injection")
    num_noisy = facts["frames"] * facts["tokens_per_frame"]
    hidden, global_vector, local = (case[f"{label}.{name}"] for name in ("hidden", "audio_global", "audio_local"))
    before = hidden.clone()
    normed: list[Any] = []
    hook = network.audio_injector.injector_adain_layers[index].register_forward_hook(lambda module, args, output: normed.append(output))
    out = network.audio_injector(index, hidden, global_vector, local, num_noisy)
    hook.remove()
    torch.testing.assert_close(normed[0], case[f"{label}.block{block}.adaptive_norm"], **TOLERANCE)
    torch.testing.assert_close(out, case[f"{label}.block{block}.out"], **TOLERANCE)
    assert torch.equal(out[:, num_noisy:], hidden[:, num_noisy:])
    assert torch.equal(hidden, before)  # checkpointing computes it again from this tensor
