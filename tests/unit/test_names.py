"""Names of the checkpoint's tensors, by the table of the specification (wan_s2v 3)."""

import pytest

from ray_s2v.model.names import diffusers_name, official_name

PAIRS = [
    ("patch_embedding.weight", "patch_embedding.weight"),
    ("cond_encoder.bias", "condition_embedder.pose_embedder.bias"),
    ("text_embedding.0.weight", "condition_embedder.text_embedder.linear_1.weight"),
    ("text_embedding.2.bias", "condition_embedder.text_embedder.linear_2.bias"),
    ("time_embedding.0.bias", "condition_embedder.time_embedder.linear_1.bias"),
    ("time_embedding.2.weight", "condition_embedder.time_embedder.linear_2.weight"),
    ("time_projection.1.weight", "condition_embedder.time_proj.weight"),
    ("casual_audio_encoder.weights", "condition_embedder.causal_audio_encoder.weights"),
    ("casual_audio_encoder.encoder.padding_tokens", "condition_embedder.causal_audio_encoder.encoder.padding_tokens"),
    ("casual_audio_encoder.encoder.conv1_local.conv.bias", "condition_embedder.causal_audio_encoder.encoder.conv1_local.conv.bias"),
    ("casual_audio_encoder.encoder.conv2.conv.weight", "condition_embedder.causal_audio_encoder.encoder.conv2.conv.weight"),
    ("trainable_cond_mask.weight", "trainable_condition_mask.weight"),
    ("frame_packer.proj_2x.weight", "frame_packer.proj_2x.weight"),
    ("blocks.7.modulation", "blocks.7.scale_shift_table"),
    ("blocks.12.self_attn.q.weight", "blocks.12.attn1.to_q.weight"),
    ("blocks.12.self_attn.k.bias", "blocks.12.attn1.to_k.bias"),
    ("blocks.12.self_attn.norm_q.weight", "blocks.12.attn1.norm_q.weight"),
    ("blocks.3.norm3.bias", "blocks.3.norm2.bias"),
    ("blocks.39.cross_attn.v.weight", "blocks.39.attn2.to_v.weight"),
    ("blocks.39.cross_attn.o.bias", "blocks.39.attn2.to_out.0.bias"),
    ("blocks.39.cross_attn.norm_k.weight", "blocks.39.attn2.norm_k.weight"),
    ("blocks.0.ffn.0.weight", "blocks.0.ffn.net.0.proj.weight"),
    ("blocks.0.ffn.2.bias", "blocks.0.ffn.net.2.bias"),
    ("audio_injector.injector.11.q.weight", "audio_injector.injector.11.to_q.weight"),
    ("audio_injector.injector.11.o.weight", "audio_injector.injector.11.to_out.0.weight"),
    ("audio_injector.injector.0.norm_k.weight", "audio_injector.injector.0.norm_k.weight"),
    ("audio_injector.injector_adain_layers.0.linear.bias", "audio_injector.injector_adain_layers.0.linear.bias"),
    ("head.modulation", "scale_shift_table"),
    ("head.head.weight", "proj_out.weight"),
]
ENCODER = "condition_embedder.causal_audio_encoder"


@pytest.mark.parametrize(("official", "diffusers"), PAIRS)
def test_both_directions(official: str, diffusers: str) -> None:
    assert diffusers_name(official) == diffusers
    assert official_name(diffusers) == official


@pytest.mark.parametrize("name", [diffusers for _, diffusers in PAIRS])
def test_our_own_names_stay(name: str) -> None:
    assert diffusers_name(name) == name


@pytest.mark.parametrize(
    ("alias", "name"),
    [
        (f"{ENCODER}.weighted_avg.weights", f"{ENCODER}.weights"),
        (f"{ENCODER}.encoder.conv2.conv.conv.weight", f"{ENCODER}.encoder.conv2.conv.weight"),
        (f"{ENCODER}.encoder.conv2.conv.conv.bias", f"{ENCODER}.encoder.conv2.conv.bias"),
        (f"{ENCODER}.encoder.conv3.conv.conv.weight", f"{ENCODER}.encoder.conv3.conv.weight"),
        (f"{ENCODER}.encoder.conv3.conv.conv.bias", f"{ENCODER}.encoder.conv3.conv.bias"),
        ("condition_embedder.casual_audio_encoder.encoder.final_linear.bias", f"{ENCODER}.encoder.final_linear.bias"),
        ("condition_embedder.casual_audio_encoder.weighted_avg.weights", f"{ENCODER}.weights"),
        ("condition_embedder.casual_audio_encoder.encoder.conv3.conv.conv.bias", f"{ENCODER}.encoder.conv3.conv.bias"),
        ("casual_audio_encoder.weighted_avg.weights", f"{ENCODER}.weights"),
    ],
)
def test_aliases(alias: str, name: str) -> None:
    assert diffusers_name(alias) == name


@pytest.mark.parametrize(
    "name", ["model.head.modulation", "blocks.x.norm3.bias", "blocks.0.norm3", "blocks.0.ffn.1.weight", "teacher.cond_encoder.bias"]
)
def test_only_whole_names_match(name: str) -> None:
    assert diffusers_name(name) == name
