"""The checkpoint's names: official <-> diffusers format, and the aliases in circulation (wan_s2v 3)."""

from __future__ import annotations

import re

# Templates in pairs; `#` is a block or injector number, `*` the rest of the name. What matches none keeps its name.
_ATTENTION = [
    *((f"{q}.*", f"to_{q}.*") for q in "qkv"),
    ("o.*", "to_out.0.*"),
    ("norm_q.*", "norm_q.*"),
    ("norm_k.*", "norm_k.*"),
]
TEMPLATES: list[tuple[str, str]] = [
    ("time_embedding.0.*", "condition_embedder.time_embedder.linear_1.*"),
    ("time_embedding.2.*", "condition_embedder.time_embedder.linear_2.*"),
    ("text_embedding.0.*", "condition_embedder.text_embedder.linear_1.*"),
    ("text_embedding.2.*", "condition_embedder.text_embedder.linear_2.*"),
    ("time_projection.1.*", "condition_embedder.time_proj.*"),
    ("cond_encoder.*", "condition_embedder.pose_embedder.*"),
    ("casual_audio_encoder.*", "condition_embedder.causal_audio_encoder.*"),
    ("trainable_cond_mask.*", "trainable_condition_mask.*"),
    ("head.modulation", "scale_shift_table"),
    ("head.head.*", "proj_out.*"),
    ("blocks.#.modulation", "blocks.#.scale_shift_table"),
    ("blocks.#.norm3.*", "blocks.#.norm2.*"),  # the only norm of a block that has parameters
    ("blocks.#.ffn.0.*", "blocks.#.ffn.net.0.proj.*"),
    ("blocks.#.ffn.2.*", "blocks.#.ffn.net.2.*"),
    *((f"blocks.#.self_attn.{a}", f"blocks.#.attn1.{b}") for a, b in _ATTENTION),
    *((f"blocks.#.cross_attn.{a}", f"blocks.#.attn2.{b}") for a, b in _ATTENTION),
    *((f"audio_injector.injector.#.{a}", f"audio_injector.injector.#.{b}") for a, b in _ATTENTION),
]
# Later revisions of the diffusers branch, and SimpleTuner, write these five under other names; some keep the official spelling "casual".
ALIASES: list[tuple[str, str]] = [
    ("condition_embedder.casual_audio_encoder.*", "condition_embedder.causal_audio_encoder.*"),
    ("condition_embedder.causal_audio_encoder.weighted_avg.weights", "condition_embedder.causal_audio_encoder.weights"),
    *(
        (f"condition_embedder.causal_audio_encoder.encoder.{c}.conv.conv.*", f"condition_embedder.causal_audio_encoder.encoder.{c}.conv.*")
        for c in ("conv2", "conv3")
    ),
]


def _compile(pairs: list[tuple[str, str]]) -> list[tuple[re.Pattern[str], str]]:
    """Anchored patterns with the replacement of each; both sides of a pair hold the same wildcards in the same order."""
    compiled = []
    for source, target in pairs:
        pattern = re.escape(source).replace(r"\#", r"(\d+)").replace(r"\*", "(.+)")
        groups = iter(range(1, 10))
        replacement = re.sub(r"[#*]", lambda _, g=groups: rf"\g<{next(g)}>", target)  # type: ignore[misc]
        compiled.append((re.compile(pattern), replacement))
    return compiled


_FROM_OFFICIAL = _compile(TEMPLATES)
_FROM_ALIAS = _compile(ALIASES)
_TO_OFFICIAL = _compile([(diffusers, official) for official, diffusers in TEMPLATES])


def _renamed(name: str, rules: list[tuple[re.Pattern[str], str]]) -> str:
    for pattern, replacement in rules:
        if match := pattern.fullmatch(name):
            return match.expand(replacement)
    return name


def diffusers_name(name: str) -> str:
    """The name that our modules give this tensor, whichever of the circulating names it came under."""
    name = _renamed(name, _FROM_OFFICIAL)
    for rule in _FROM_ALIAS:
        name = _renamed(name, [rule])
    return name


def official_name(name: str) -> str:
    """The official checkpoint's name of a tensor of ours."""
    return _renamed(name, _TO_OFFICIAL)
