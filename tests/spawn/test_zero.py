"""The loop under DeepSpeed in real processes: every ZeRO stage, one to four workers, and what a checkpoint carries between them."""

from __future__ import annotations

import pytest
import torch

from ray_s2v.model.flow import clip_losses
from ray_s2v.model.lora import adapter_name
from ray_s2v.training.checkpoint import load_state
from ray_s2v.training.schedule import learning_rate
from tests.spawn.zero_runs import SLOTS, STEPS, Case, adapted_network, run_cases, tiny_batch, tiny_job

STAGES = (0, 1, 2, 3)
pytestmark = pytest.mark.timeout(400)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """All stages with one to three workers over 6 steps, each leaving checkpoints at steps 3 and 6: {(workers, stage): result}."""
    folder = tmp_path_factory.mktemp("runs")
    results = {}
    for workers in (1, 2, 3):  # of 3, two lack one of 4 clips in the second turn
        cases = [Case(stage, folder / f"w{workers}s{stage}") for stage in STAGES]
        first = run_cases(cases, workers, folder / f"out{workers}")[0]
        results |= {(workers, stage): result for stage, result in zip(STAGES, first, strict=True)}
    return folder, results


@pytest.fixture(scope="module")
def plain():
    """The same run written out in plain torch: one process, the whole step at once, no DeepSpeed, no checkpointing."""
    settings = tiny_job(0, 1).training
    model = adapted_network()
    adapter = {adapter_name(n): p for n, p in model.named_parameters() if p.requires_grad}
    optimizer = torch.optim.AdamW(adapter.values(), lr=settings.learning_rate, weight_decay=settings.weight_decay)
    losses, norms = [], []
    for step in range(STEPS):
        loss = clip_losses(model, tiny_batch(step, list(range(SLOTS))), 3.0).mean()
        loss.backward()
        norms.append(torch.nn.utils.clip_grad_norm_(adapter.values(), settings.clip_grad_norm).item())
        optimizer.param_groups[0]["lr"] = learning_rate(step, STEPS, settings.learning_rate, settings.warmup_steps)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses, norms, {name: parameter.detach() for name, parameter in adapter.items()}


@pytest.mark.parametrize("workers", [1, 2, 3])
@pytest.mark.parametrize("stage", STAGES)
def test_every_stage_and_number_of_workers_is_plain_training(runs, plain, stage, workers):
    result = runs[1][workers, stage]
    losses, norms, adapter = plain
    assert result["losses"] == pytest.approx(losses, abs=1e-5)
    assert result["norms"] == pytest.approx(norms, rel=1e-4)
    assert max(norms) > 0.05, "clipping must matter here"
    assert result["adapter"].keys() == adapter.keys()
    for name, expected in adapter.items():
        torch.testing.assert_close(result["adapter"][name], expected, atol=2e-4, rtol=0)  # a step of Adam moves by 1e-2


def test_every_stage_rounds_alike(tmp_path):
    """Before anything is learned: what bf16 products are added to and when they are rounded is the same whoever holds the weights."""
    cases = [Case(stage, tmp_path / f"s{stage}", end_step=1, dtype=torch.bfloat16, lora_dropout=p) for stage in STAGES for p in (0.0, 1e-9)]
    fast, plain = (run_cases(cases, 2, tmp_path / "out")[0][start::2] for start in (0, 1))
    for results in (fast, plain):
        assert len({result["losses"][0] for result in results}) == 1


def test_every_stage_routes_alike(runs, tmp_path):
    """TREAD in the fast form on two workers and one, and in the plain one, under all stages."""
    routes = ((0.5, 1, 2),)
    results = [
        result
        for workers, dropout in ((2, 0.0), (1, 0.0), (1, 1e-9))
        for result in run_cases(
            [Case(stage, tmp_path / f"{workers}{stage}{dropout}", end_step=3, routes=routes, lora_dropout=dropout) for stage in STAGES],
            workers,
            tmp_path / f"out{workers}{dropout}",
        )[0]
    ]
    for result in results:
        assert result["losses"] == pytest.approx(results[0]["losses"], abs=1e-5)
    without = runs[1][2, 0]["losses"][:3]
    assert all(abs(one - other) > 1e-3 for one, other in zip(results[0]["losses"], without, strict=True))


def test_workers_share_the_slots(runs):
    expected = [[f"clip{step}.{slot}" for slot in range(SLOTS)] for step in range(STEPS)]
    assert all(result["clips"] == expected for result in runs[1].values())


def test_resumed_runs_go_on_as_if_undisturbed(runs, tmp_path):
    folder, results = runs
    same = [Case(stage, tmp_path / f"same{stage}", 3, STEPS, folder / f"w2s{stage}" / "step_000003") for stage in STAGES]
    stages = ((2, 3), (3, 0), (0, 1))
    changed = [Case(new, tmp_path / f"s{old}to{new}", 3, STEPS, folder / f"w2s{old}" / "step_000003") for old, new in stages]
    resumed = run_cases(same + changed, 2, tmp_path / "out2")[0]
    for case, result in zip(same + changed, resumed, strict=True):
        undisturbed = results[2, case.stage]
        if case in same:
            assert result["losses"] == undisturbed["losses"][3:], f"stage {case.stage}: the same to the last bit"
            for kind in ("adapter", "averaged"):
                assert all(torch.equal(result[kind][name], value) for name, value in undisturbed[kind].items())
        else:
            assert result["losses"] == pytest.approx(undisturbed["losses"][3:], abs=1e-5)
    fewer = [Case(stage, tmp_path / f"one{stage}", 3, STEPS, folder / "w2s2" / "step_000003") for stage in (2, 3)]
    for case, result in zip(fewer, run_cases(fewer, 1, tmp_path / "out1")[0], strict=True):
        assert result["losses"] == pytest.approx(results[2, 2]["losses"][3:], abs=1e-5), f"2 workers to 1, stage {case.stage}"


def test_workers_that_go_and_come_back_change_nothing(tmp_path):
    """4 workers, 2 and 4 again, two steps each from the checkpoint before, against 4 throughout."""
    stages = (0, 2, 3)
    undisturbed = run_cases([Case(stage, tmp_path / f"u{stage}") for stage in stages], 4, tmp_path / "out")[0]
    losses, clips = [[] for _ in stages], [[] for _ in stages]
    for life, workers in enumerate((4, 2, 4)):
        first, end = 2 * life, 2 * life + 2
        cases = [
            Case(stage, tmp_path / f"s{stage}", first, end, tmp_path / f"s{stage}" / f"step_{first:06d}" if first else None, every=2)
            for stage in stages
        ]
        for place, result in enumerate(run_cases(cases, workers, tmp_path / f"out{life}")[0]):
            losses[place] += result["losses"]
            clips[place] += result["clips"]
    for place, result in enumerate(undisturbed):
        assert losses[place] == pytest.approx(result["losses"], abs=1e-5)
        assert clips[place] == result["clips"]


def test_dropout_of_the_adapter_resumes_exactly(tmp_path):
    whole = Case(2, tmp_path / "whole", lora_dropout=0.5)
    resumed = Case(2, tmp_path / "resumed", 3, STEPS, tmp_path / "whole" / "step_000003", lora_dropout=0.5)
    without = Case(2, tmp_path / "without")
    results = run_cases([whole, resumed, without], 2, tmp_path / "out")[0]
    assert results[1]["losses"] == results[0]["losses"][3:]
    assert results[0]["losses"] != pytest.approx(results[2]["losses"], abs=1e-3), "dropout is at work"


def test_the_step_is_the_mean_over_the_clips_that_can_be_read(tmp_path):
    cases = [Case(stage, tmp_path / f"s{stage}", end_step=1, poison_step=0, poison="one unreadable") for stage in (0, 2)]
    model = adapted_network()
    loss = clip_losses(model, tiny_batch(0, [0, 1, 2]), 3.0).mean()
    loss.backward()
    norm = torch.nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None])
    for result in run_cases(cases, 2, tmp_path / "out")[0]:
        assert result["losses"] == pytest.approx([loss.item()], abs=1e-5)
        assert result["norms"] == pytest.approx([norm.item()], rel=1e-4)


def test_a_checkpoint_holds_the_moments_of_every_adapter_tensor(runs):
    state = load_state(runs[0] / "w1s2" / "step_000003")
    assert {name.rsplit(".", 1)[0] for name in state.moments} == set(state.adapter)
    assert all(moment.abs().max() > 0 for moment in state.moments.values())


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("stage", STAGES)
def test_the_average_is_that_of_the_weights_every_third_step(runs, stage, workers):
    """A step n keeps at most (1 + n) / (10 + n) of it: 4/13 at step 3; at step 6 the job's 0.4, which is less than 7/16."""
    folder, results = runs
    average = {adapter_name(n): p.detach() for n, p in adapted_network().named_parameters() if p.requires_grad}
    for step, kept in ((3, (4 / 13) ** 3), (6, 0.4**3)):
        state = load_state(folder / f"w{workers}s{stage}" / f"step_{step:06d}")
        average = {name: kept * tensor + (1 - kept) * state.adapter[name] for name, tensor in average.items()}
        for name, tensor in average.items():
            torch.testing.assert_close(state.average[name], tensor, atol=1e-6, rtol=1e-5)
    result = results[workers, stage]
    assert all(torch.equal(result["averaged"][name], tensor) for name, tensor in state.average.items())
    assert all(torch.equal(result["adapter"][name], tensor) for name, tensor in state.adapter.items()), "as it was, after a look"


STOPS = {
    "loss": ("step 2 stopped before the optimizer: not finite", "worker 1: the loss of clip2.3"),
    "gradient": ("step 2 stopped before the optimizer: not finite", "worker 1: a gradient of clip2.1, clip2.3"),
    "unreadable": ("step 2 stopped before the optimizer: none of its clips could be read", "clip2.0: gone"),
    "refused": ("an encoder cannot be loaded", ""),
}


@pytest.mark.parametrize("poison", STOPS)
def test_stops_before_the_optimizer_where_a_step_cannot_be_used(tmp_path, poison):
    stages = (0, 2, 3)
    poisoned = [Case(stage, tmp_path / f"p{stage}", poison_step=2, poison=poison) for stage in stages]
    undisturbed = [Case(stage, tmp_path / f"u{stage}", end_step=2) for stage in stages]
    for results in run_cases(poisoned + undisturbed, 2, tmp_path / "out"):
        for stopped, before in zip(results[: len(stages)], results[len(stages) :], strict=True):
            beginning, named = STOPS[poison]
            assert stopped["error"].startswith(beginning)
            assert named in stopped["error"]
            assert all(torch.equal(stopped["adapter"][name], value) for name, value in before["adapter"].items())
