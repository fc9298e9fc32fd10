"""Where a GPU's time of a step goes, from the events of a Chrome trace."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

# A kernel is of the first part whose pattern its name has: the compiler's kernels are named after all that is fused in them, and
# attention's after the library that its products are from. dot_do_o and convert_dq: before and after cuDNN's gradient of attention.
KERNELS = {
    "triton": re.compile("^triton_"),
    "communication": re.compile("^nccl", re.IGNORECASE),
    "attention": re.compile("sdpa|fmha|flash|attention|attn_fwd|dot_do_o|convert_dq", re.IGNORECASE),
    "products": re.compile("gem[mv]|cutlass|nvjet|cublas|xmma|scaled_mm|splitk|^Cijk_", re.IGNORECASE),
}
COPIES = {"Memcpy DtoH": "to_host", "Memcpy HtoD": "from_host"}
COMPUTING = ("attention", "products", "triton", "other")
PARTS = (*COMPUTING, "communication", *COPIES.values())
ON_GPU = ("kernel", "gpu_memcpy", "gpu_memset")  # categories of events

Spans = list[tuple[int, int]]  # start and stop in nanoseconds, as a trace has them: whole numbers add up exactly


def part_of(event: dict[str, Any]) -> str:
    """The part of a step that an event on the GPU is of; `other` holds copies within the GPU too."""
    name = event["name"]
    if event["cat"] == "kernel":
        return next((part for part, pattern in KERNELS.items() if pattern.search(name)), "other")
    return next((part for start, part in COPIES.items() if name.startswith(start)), "other")


def gpu_times(events: Iterable[dict[str, Any]]) -> dict[str, float]:
    """Milliseconds of each part, summed over streams, and of what ran at once; empty where no event is a GPU's.

    span: from the first event to the end of the last. busy: something was computed. idle: nothing ran at all. communication_alone,
    copies_alone: that ran and nothing was computed, so that the step waited for it.
    """
    parts: dict[str, Spans] = {part: [] for part in PARTS}
    for event in events:
        if event.get("cat") in ON_GPU:
            start = round(1e3 * event["ts"])
            parts[part_of(event)].append((start, start + round(1e3 * event["dur"])))
    everything = _of(parts, PARTS)
    if not everything:
        return {}
    computing = _of(parts, COMPUTING)
    span = max(stop for _, stop in everything) - min(start for start, _ in everything)
    busy = _covered(computing)
    nanoseconds = {
        **{part: sum(stop - start for start, stop in spans) for part, spans in parts.items()},
        "span": span,
        "busy": busy,
        "idle": span - _covered(everything),
        "communication_alone": _covered(computing + parts["communication"]) - busy,
        "copies_alone": _covered(computing + _of(parts, COPIES.values())) - busy,
    }
    return {name: taken / 1e6 for name, taken in nanoseconds.items()}


def _of(parts: dict[str, Spans], names: Iterable[str]) -> Spans:
    return [span for name in names for span in parts[name]]


def _covered(spans: Sequence[tuple[int, int]]) -> int:
    """Nanoseconds in which at least one runs."""
    covered, end = 0, 0
    for start, stop in sorted(spans):
        covered += max(stop - max(start, end), 0)
        end = max(end, stop)
    return covered
