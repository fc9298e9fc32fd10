"""Whether frozen weights in float8 or int8 harm LoRA: its losses and gradients against those of bf16 and float32, as JSON.

    python -m tests.gpu.precision OUT.json [--device cuda] [--small] [--parts trained wide whole] [--kernel cudnn]

trained: 8 blocks trained in full on one task, then tuned by LoRA to another with the frozen weights in each form.
wide: 4 blocks of the 14B width, random weights, 7,800 tokens: gradients against float32; is bf16's fast form as good as its modules?
whole: 14B, random weights, 832x480, 19 latent frames: gradients against bf16, for which float32 has no room.

A checkpoint's values are bf16 ones, so float32 here means exact products of the same weights. LoRA starts from the same numbers in
every form. Random and briefly trained weights have not the few huge channels of a real model; that remains for a real run to show.
"""

from __future__ import annotations

import argparse
import gc
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ray_s2v.model.flow import clip_losses
from ray_s2v.model.fused.attention import Kernel
from ray_s2v.model.fused.functions import AS_WRITTEN, Functions, compiled
from ray_s2v.model.fused.fuse import FastForm, fuse
from ray_s2v.model.fused.precision import narrow, narrow_layers
from ray_s2v.model.lora import adapter_name, lora_config, with_lora
from ray_s2v.model.transformer import WanS2VTransformer3DModel
from ray_s2v.schema import Batch
from tests.gpu.precision_task import HELD_OUT, SHIFT, SIZES, SMALL, Shape, Sizes, Task, held_out_loss, train, trained_weights

LORA = lora_config(16, 16, 0.0, ["to_q", "to_k", "to_v", "to_out.0"], "all")
FORMS = ("float32", "bf16 modules", "bf16", "fp8", "int8")  # the first two by modules, the others through `fuse`
TURN = 0.5  # radians between the task that is learned and the one that LoRA is tuned to
LORA_RATE = 2e-3

Weights = Callable[[], Iterator[tuple[str, Tensor]]]
Gradients = list[dict[str, Tensor]]  # of each batch


class Report:
    """Figures by part and name, in the file as soon as they are known."""

    def __init__(self, out: Path, device: torch.device) -> None:
        self.out, self.started = out, time.monotonic()
        card = torch.cuda.get_device_name() if device.type == "cuda" else "cpu"
        self.found: dict[str, dict[str, Any]] = {"about": {"card": card, "torch": torch.__version__}}

    def add(self, part: str, name: str, value: Any) -> None:
        self.found.setdefault(part, {})[name] = value
        self.found["about"]["seconds"] = round(time.monotonic() - self.started, 1)
        self.out.write_text(json.dumps(self.found, indent=2) + "\n")
        print(f"{self.found['about']['seconds']:7.1f} s  {part:8} {name:26} {json.dumps(value)}", flush=True)


def random_weights(config: dict[str, Any], device: torch.device) -> Iterator[tuple[str, Tensor]]:
    """The same numbers each time: norms about one, all else of a deviation that makes products as large as their inputs."""
    with torch.device("meta"):
        network = WanS2VTransformer3DModel(**config)
    deviation = 1.4 * (network.config.num_attention_heads * network.config.attention_head_dim) ** -0.5  # 0.02 at 14B
    generator = torch.Generator(device).manual_seed(0)
    for name, like in network.state_dict().items():
        drawn = deviation * torch.randn(like.shape, generator=generator, device=device)
        yield name, drawn + 1 if name.endswith(("norm_q.weight", "norm_k.weight", "norm2.weight")) else drawn


def adapted(form: str, config: dict[str, Any], weights: Weights, fast: FastForm, device: torch.device, seed: int, up: float) -> nn.Module:
    """The network with its frozen weights in a form, and an adapter of its own numbers, `up` being the deviation of the second factor.

    PEFT rounds a fresh adapter to the dtype of the frozen weights, so the same seed would start each form elsewhere.
    """
    with torch.device("meta"):
        network = WanS2VTransformer3DModel(**config)
    exact = set(network._keep_in_fp32_modules)
    dtype = torch.float32 if form == "float32" else torch.bfloat16
    state = {name: t.float() if exact & set(name.split(".")) else t.bfloat16().to(dtype) for name, t in weights()}
    network.load_state_dict(state, assign=True)
    del state
    is_fast = form in ("bf16", "fp8", "int8")
    if is_fast:
        for layer in narrow_layers(network):
            narrow(layer, form, device, device)  # type: ignore[arg-type]
    else:
        network.enable_gradient_checkpointing()
    model = with_lora(network, LORA, seed=0).train()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in adapter(model).items():
            drawn = torch.rand(p.shape, generator=generator) * 2 - 1
            p.copy_(drawn * (up * 3**0.5 if "lora_B" in name else p.shape[1] ** -0.5))
    if is_fast:
        fuse(model.base_model.model, fast, device)
    return model


def adapter(model: nn.Module) -> dict[str, nn.Parameter]:
    return {adapter_name(name).removeprefix("base_model.model."): p for name, p in model.named_parameters() if p.requires_grad}


def gradients(model: nn.Module, batches: list[Batch]) -> Gradients:
    """The adapter's gradients of each batch, on the CPU."""
    found = []
    for batch in batches:
        clip_losses(model, batch, SHIFT).mean().backward()
        found.append({name: p.grad.cpu() for name, p in adapter(model).items()})
        model.zero_grad()
    return found


def agreement(found: Gradients, reference: Gradients) -> dict[str, Any]:
    """Cosines and relative errors of each factor of each adapted layer, means over the batches; `all` is of all factors together."""
    cosines: dict[str, list[float]] = {}
    errors: dict[str, list[float]] = {}
    for ours, theirs in zip(found, reference, strict=True):
        assert ours.keys() == theirs.keys()
        ours, theirs = ({**g, "all": torch.cat([t.flatten() for t in g.values()])} for g in (ours, theirs))
        for name, right in theirs.items():
            assert right.norm() > 0, f"{name} has no gradient to compare with"
            cosines.setdefault(name, []).append(F.cosine_similarity(ours[name].double().flatten(), right.double().flatten(), dim=0).item())
            errors.setdefault(name, []).append(((ours[name] - right).norm() / right.norm()).item())
    cosine, error = ({name: sum(values) / len(values) for name, values in by_name.items()} for by_name in (cosines, errors))
    all_cosine, all_error = cosine.pop("all"), error.pop("all")
    worst = min(cosine, key=lambda name: cosine[name])
    share = sum(g[worst].square().sum().item() for g in reference) / sum(t.square().sum().item() for g in reference for t in g.values())
    return {
        "cosine": {"all": all_cosine, "median": median(cosine.values()), "worst": cosine[worst]},
        "error": {"all": all_error, "median": median(error.values()), "worst": max(error.values())},
        "worst_factor": worst,
        "its_share_of_the_gradient": share**0.5,
    }


def run_trained(sizes: Sizes, kernel: Kernel, device: torch.device, report: Report) -> None:
    shape, part = sizes.trained, "trained"
    torch.set_float32_matmul_precision("high")
    weights, losses = trained_weights(Task(shape, 0.0), sizes.steps, sizes.learning_rate, device)
    torch.set_float32_matmul_precision("highest")
    report.add(part, "training in full", losses)
    task, fast = Task(shape, TURN), FastForm(AS_WRITTEN, kernel)

    def model_of(form: str, seed: int = 1) -> nn.Module:
        return adapted(form, shape.network, lambda: iter(weights.items()), fast, device, seed, up=0.0)

    def tuned(name: str, model: nn.Module) -> dict[int, dict[str, Tensor]]:
        """The adapter early and late in a run of LoRA, by steps done."""
        kept = {}

        def keep(step: int) -> None:
            if step in (sizes.early, sizes.lora_steps):
                kept[step] = {factor: p.detach().clone() for factor, p in adapter(model).items()}

        before = held_out_loss(model, task, device)
        train(model, task, sizes.lora_steps, LORA_RATE, device, keep)
        report.add(part, f"LoRA {name}", {"loss before": before, "loss after": held_out_loss(model, task, device)})
        return kept

    adapters = tuned("bf16", model_of("bf16"))
    tuned("bf16, another start", model_of("bf16", seed=2))
    for form in ("float32", "fp8", "int8"):
        tuned(form, model_of(form))

    batches = [task.batch(HELD_OUT + 100 + i, device) for i in range(4)]
    for step, tensors in adapters.items():
        found = {}
        for form in FORMS:
            model = model_of(form)
            with torch.no_grad():
                for factor, p in adapter(model).items():
                    p.copy_(tensors[factor])
            found[form] = gradients(model, batches)
        for form, reference in (*((form, "float32") for form in FORMS[1:]), ("fp8", "bf16"), ("int8", "bf16")):
            report.add(part, f"{form} to {reference}, step {step}", agreement(found[form], found[reference]))


def of_random_weights(form: str, shape: Shape, fast: FastForm, device: torch.device) -> tuple[Gradients, dict[str, float]]:
    """Gradients of a first clip with an adapter past its start; seconds (compilation among them) and peak memory."""
    gc.collect()  # the network before this one
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    held = torch.cuda.memory_allocated() if device.type == "cuda" else 0
    started = time.monotonic()
    model = adapted(form, shape.network, lambda: random_weights(shape.network, device), fast, device, seed=1, up=0.01)
    found = gradients(model, [Task(shape, 0.0).batch(HELD_OUT, device)])
    peak = torch.cuda.max_memory_allocated() if device.type == "cuda" else 0
    figures = {"seconds": time.monotonic() - started, "peak_gib": peak / 2**30, "held_before_gib": held / 2**30}
    return found, {what: round(figure, 2) for what, figure in figures.items()}


def run_wide(sizes: Sizes, kernel: Kernel, device: torch.device, report: Report) -> None:
    reference, figures = of_random_weights("float32", sizes.wide, FastForm(AS_WRITTEN, kernel), device)
    report.add("wide", "float32", figures)
    errors = {}
    for form in FORMS[1:]:
        functions = _fastest_functions(device) if form == "bf16" else AS_WRITTEN
        found, figures = of_random_weights(form, sizes.wide, FastForm(functions, kernel), device)
        compared = agreement(found, reference)
        report.add("wide", f"{form} to float32", compared | figures)
        errors[form] = compared["error"]
    report.add(
        "wide", "error of bf16 by bf16 modules", {what: errors["bf16"][what] / errors["bf16 modules"][what] for what in errors["bf16"]}
    )


def run_whole(sizes: Sizes, kernel: Kernel, device: torch.device, report: Report) -> None:
    fast = FastForm(_fastest_functions(device), kernel, units_on_host=sizes.units_on_host)
    reference, figures = of_random_weights("bf16", sizes.whole, fast, device)
    report.add("whole", "bf16", figures)
    for form in ("fp8", "int8", "bf16 modules"):
        found, figures = of_random_weights(form, sizes.whole, fast, device)
        report.add("whole", f"{form} to bf16", agreement(found, reference) | figures)


def _fastest_functions(device: torch.device) -> Functions:
    return compiled(print) if device.type == "cuda" else AS_WRITTEN


PARTS = {"trained": run_trained, "wide": run_wide, "whole": run_whole}


def table(found: dict[str, dict[str, Any]]) -> str:
    """Losses and agreements, a line each."""
    lines = [f"{'':44} {'cosine: all':>12} {'median':>9} {'worst':>9} {'error: all':>12} {'median':>9} {'worst':>9}"]
    for part in PARTS:
        for name, value in found.get(part, {}).items():
            if "cosine" in value:
                numbers = [*value["cosine"].values(), *value["error"].values()]
                shown = "{:12.5f} {:9.5f} {:9.5f} {:12.4f} {:9.4f} {:9.4f}".format(*numbers)
            else:
                shown = ", ".join(f"{what} {number:.4f}" for what, number in value.items())
            lines.append(f"{part:8} {name:35} {shown}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--small", action="store_true", help="toy sizes in every part, to try the script")
    parser.add_argument("--parts", nargs="+", default=list(PARTS), choices=list(PARTS))
    parser.add_argument("--kernel", default=None, choices=["cudnn", "flash", "efficient", "cpu"])
    given = parser.parse_args()
    if given.device == "cpu" and not given.small:
        parser.error("a CPU is for --small")
    device = torch.device(given.device)
    torch.backends.cudnn.allow_tf32 = False
    report = Report(given.out, device)
    for part in given.parts:
        PARTS[part](SMALL if given.small else SIZES, given.kernel or ("cudnn" if given.device == "cuda" else "cpu"), device, report)
    print(table(report.found))


if __name__ == "__main__":
    main()
