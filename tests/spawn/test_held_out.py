"""The held-out loss in real processes: every ZeRO stage, one and two workers, against a slow loop; and training that goes on after it."""

from __future__ import annotations

import hashlib
import json
import math
import os
import random
import socket
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from ray_s2v.config.source import Source
from ray_s2v.data.held_out import held_out_rows, shared_out
from ray_s2v.model.condition import collated
from ray_s2v.schema import HISTORY_LATENTS, Batch, Bucket, PlanRow
from tests.plans import clip
from tests.spawn.zero_runs import SLOTS, adapted_network, tiny_batch, tiny_job
from tests.tiny import TINY

STAGES = (0, 1, 2, 3)
LEVELS = 2
STEPS = 4
BROKEN = "eval/broken.mp4"
SMALL, LONGER = Bucket(64, 64, 8), Bucket(64, 64, 12)
CLIPS = [
    *(clip(f"eval/{name}.mp4", num_frames, SMALL, source="eval") for name, num_frames in (("a", 40), ("b", 8), ("c", 40))),
    clip("eval/silent.mp4", 8, SMALL, source="eval", audio=None, audio_s=0.0),
    clip(BROKEN, 8, SMALL, source="eval"),
    clip("eval/alone.mp4", 12, LONGER, source="eval"),
]
ROWS = held_out_rows(CLIPS, [Source(path="eval", is_eval=True)], 100)
pytestmark = pytest.mark.timeout(400)


def held_out_batch(row: PlanRow) -> Batch:
    """A row with features that depend on clip and kind alone."""
    draw = np.random.default_rng(row["noise_seed"])
    height, width, frames = row["height"] // 8, row["width"] // 8, row["num_frames"] // 4
    motion = HISTORY_LATENTS if row["kind"] == "continuation" else 0
    speech = draw.standard_normal((4 * frames, TINY["num_weighted_avg_layers"], TINY["audio_dim"]))
    features = {
        "latents": draw.standard_normal((16, motion + frames, height, width)),
        "reference": draw.standard_normal((16, 1, height, width)),
        "speech": 3 * speech,
        "text": torch.from_numpy(draw.standard_normal((5, TINY["text_dim"]))).bfloat16().view(torch.uint16).numpy(),
        "video_error": "gone" if row["clip_id"] == BROKEN else "",
        "speech_error": "",
    }
    return collated([{**row, **features}], torch.device("cpu"))


@dataclass(frozen=True)
class Case:
    """One run of four steps, with an evaluation before and in the middle, or without."""

    stage: int
    evaluates: bool
    lora_dropout: float = 0.0  # which the plain form alone knows
    poison: str = ""


def _run(case: Case, worker: int, workers: int) -> dict[str, Any]:
    from ray_s2v.model.fused.functions import AS_WRITTEN
    from ray_s2v.model.fused.fuse import FastForm, fuse
    from ray_s2v.schema import RunStopped
    from ray_s2v.training import engine as engine_module
    from ray_s2v.training.engine import Engine
    from ray_s2v.training.held_out import held_out_loss, with_other_sounds
    from ray_s2v.training.loop import StepRecord, train

    engine_module.PERSISTENT_BELOW = 0  # or ZeRO-3 would leave every tensor of this network whole
    job = tiny_job(case.stage, workers, ((0.5, 1, 2),))
    model = adapted_network(case.lora_dropout, checkpointing=True)
    if not case.lora_dropout:
        fuse(model.base_model.model, FastForm(AS_WRITTEN, "cpu"), torch.device("cpu"))
    engine = Engine(model, job, torch.device("cpu"), None, 0)
    given = [held_out_batch(row) for row in shared_out(ROWS, workers)[worker::workers]]
    if case.poison == "unreadable":
        given = [replace(batch, errors=["gone"]) for batch in given]
    if case.poison == "not finite":
        given = [replace(batch, reference=batch.reference / 0) if "alone" in batch.clip_ids[0] else batch for batch in given]
    samples = with_other_sounds(given) if case.evaluates else []
    figures: list[dict[str, Any]] = []
    undisturbed = []
    error = ""

    def evaluate() -> None:
        nonlocal error
        before = _state(engine, model)
        try:
            figures.append(asdict(held_out_loss(engine, samples, LEVELS)))
        except RunStopped as stop:
            error = str(stop)
        undisturbed.append(before == _state(engine, model))

    records: list[StepRecord] = []
    batches = (tiny_batch(step, [slot]) for step in range(STEPS) for slot in range(worker, SLOTS, workers))
    for first in range(0, STEPS, 2):
        if case.evaluates:
            evaluate()
        if not case.poison:
            train(engine, batches, job.training, range(first, first + 2), STEPS, records.append, lambda _: None)
    return {
        "figures": figures,
        "undisturbed": undisturbed,
        "error": error,
        "losses": [record.losses for record in records],
        "norms": [record.gradient_norm for record in records],
        "adapter": engine.adapter_tensors(),
    }


def _state(engine: Any, model: torch.nn.Module) -> tuple[Any, ...]:
    """All that an evaluation must leave as it is, but the adapter, which the steps after it tell of."""
    return (
        torch.get_rng_state().tolist(),
        str(np.random.get_state()),
        random.getstate(),
        all(module.training for module in model.modules()),
        [None if p.grad is None else p.grad.tolist() for p in engine.adapter.values()],
        engine.gradient_sum.item(),
        engine.deepspeed.micro_steps,
        engine.deepspeed.global_steps,
        torch.is_grad_enabled(),
    )


def _worker(worker: int, workers: int, port: int, cases: list[Case], out: Path) -> None:
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), RANK=str(worker), WORLD_SIZE=str(workers), LOCAL_RANK=str(worker))
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    torch.save([_run(case, worker, workers) for case in cases], out / f"worker{worker}.pt")
    dist.destroy_process_group()


def run_cases(cases: list[Case], workers: int, out: Path) -> list[list[dict[str, Any]]]:
    """Results [worker][case]."""
    out.mkdir()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.spawn(_worker, args=(workers, port, cases, out), nprocs=workers)
    return [torch.load(out / f"worker{worker}.pt", weights_only=True) for worker in range(workers)]


POISONED = {"unreadable": Case(2, True, poison="unreadable"), "not finite": Case(2, True, poison="not finite")}
TRAINED = [*((stage, 0.0) for stage in STAGES), (2, 0.5)]  # stage and dropout of the adapter
CASES = [*(Case(stage, evaluates, dropout) for stage, dropout in TRAINED for evaluates in (True, False)), *POISONED.values()]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[int, list[dict[Case, dict[str, Any]]]]:
    """{workers: [worker][case]}"""
    folder = tmp_path_factory.mktemp("runs")
    results = {workers: run_cases(CASES, workers, folder / f"{workers}") for workers in (1, 2)}
    return {workers: [dict(zip(CASES, of_worker, strict=True)) for of_worker in result] for workers, result in results.items()}


@pytest.fixture(scope="module")
def slow() -> dict[tuple[str, str], list[tuple[float, float, float]]]:
    """Losses of every readable row at each level, with its own sound, without, and with another's (its own where there is none)."""
    model = adapted_network().eval()
    donor_of = {}
    readable = [row for row in ROWS if row["clip_id"] != BROKEN]
    for row in readable:
        fits = [r for r in readable if _group(r) == _group(row) and not r["drop_audio"]]
        donor_of[row["clip_id"], row["kind"]] = fits[(fits.index(row) + 1) % len(fits)] if row in fits else row
    losses = {}
    for row in readable:
        batch = held_out_batch(row)
        other = held_out_batch(donor_of[row["clip_id"], row["kind"]]).audio
        levels = []
        for level in range(LEVELS):
            key = json.dumps(["held out", row["noise_seed"], level]).encode()
            draw = np.random.default_rng(int.from_bytes(hashlib.blake2b(key, digest_size=16).digest(), "little"))
            noise = torch.randn(batch.latents.shape, generator=torch.Generator().manual_seed(int(draw.integers(2**63))))
            u = (level + 0.5) / LEVELS
            sigma = 3 * u / (1 + 2 * u)
            figures = []
            for sound in (batch.audio, 0 * batch.audio, other):
                with torch.no_grad():
                    velocity = model(
                        (1 - sigma) * batch.latents + sigma * noise,
                        torch.tensor([1000 * sigma]),
                        batch.text,
                        batch.reference,
                        motion=batch.motion,
                        audio=sound,
                    )
                figures.append((velocity - noise + batch.latents).square().mean().item())
            levels.append(tuple(figures))
        losses[row["clip_id"], row["kind"]] = levels
    return losses


def _group(row: PlanRow) -> tuple[int, int, int, str]:
    return row["width"], row["height"], row["num_frames"], row["kind"]


def test_the_figures_are_those_of_a_slow_loop(runs, slow):
    names = {key: key[0] + " (continuation)" * (key[1] == "continuation") for key in slow}
    not_compared = [name for name in names.values() if "silent" in name or "alone" in name]
    assert len(not_compared) == 2
    compared = [levels for key, levels in slow.items() if names[key] not in not_compared]
    own, without, other = np.array(compared).reshape(-1, 3).mean(axis=0)
    assert min(abs(own - without), abs(own - other), abs(without - other)) > 1e-4, "the sound matters here"
    expected = {
        "loss": np.mean([loss for levels in slow.values() for loss, *_ in levels]),
        "loss_without_sound": without,
        "loss_with_other_sound": other,
        "worse_without_sound": without - own,
        "worse_with_other_sound": other - own,
    }
    by_level = np.array([[loss for loss, *_ in levels] for levels in slow.values()]).mean(axis=0)
    by_clip = {names[key]: np.mean([loss for loss, *_ in levels]) for key, levels in slow.items()}
    for workers, every in runs.items():
        for of_worker in every:
            for stage, dropout in TRAINED:
                first = of_worker[Case(stage, True, dropout)]["figures"][0]
                assert {name: first[name] for name in expected} == pytest.approx(expected, abs=1e-6), (workers, stage, dropout)
                assert first["by_level"] == pytest.approx(list(by_level), abs=1e-6)
                assert first["clips"] == pytest.approx(by_clip, abs=1e-6)
                assert list(first["clips"]) == list(by_clip), "in the order of the rows"
                assert first["not_compared"] == not_compared
                assert first["unreadable"] == {BROKEN: "gone"}


def test_workers_and_stages_agree_after_training_too(runs):
    plain = runs[1][0][Case(0, True)]["figures"]
    assert abs(plain[1]["loss"] - plain[0]["loss"]) > 1e-3, "training has changed something"
    for every in runs.values():
        for stage in STAGES:
            results = [of_worker[Case(stage, True)]["figures"] for of_worker in every]
            assert all(result == results[0] for result in results), "the same on every worker"
            for figures, others in zip(results[0], plain, strict=True):
                assert math.isclose(figures["loss"], others["loss"], abs_tol=1e-5)
                assert math.isclose(figures["worse_with_other_sound"], others["worse_with_other_sound"], abs_tol=1e-5)


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize(("stage", "dropout"), TRAINED)
def test_training_goes_on_as_if_nothing_had_been_evaluated(runs, workers, stage, dropout):
    for of_worker in runs[workers]:
        evaluated, without = (of_worker[Case(stage, evaluates, dropout)] for evaluates in (True, False))
        assert len(without["losses"]) == STEPS
        assert evaluated["losses"] == without["losses"], "to the last bit"
        assert evaluated["norms"] == without["norms"]
        assert all(torch.equal(evaluated["adapter"][name], value) for name, value in without["adapter"].items())
        assert evaluated["undisturbed"] == [True, True]


@pytest.mark.parametrize(
    ("poison", "told"),
    [
        ("unreadable", "none of the held-out clips could be read: eval/"),
        ("not finite", "not finite: the loss of the held-out eval/alone.mp4"),
    ],
)
def test_figures_that_mean_nothing_stop_all_workers_alike(runs, poison, told):
    for every in runs.values():
        for of_worker in every:
            result = of_worker[POISONED[poison]]
            assert result["error"].startswith(told)
            assert result["undisturbed"] == [True, True]
