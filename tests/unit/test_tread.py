"""TREAD: who is drawn, where kept tokens stand and what they hear, against blocks written out one frame after the other."""

from typing import Any

import pytest
import torch
from peft import PeftModel
from torch import Tensor

from ray_s2v.config.job import Job
from ray_s2v.model.flow import clip_losses
from ray_s2v.model.fused.functions import AS_WRITTEN, Functions, compiled
from ray_s2v.model.fused.fuse import FastForm, fuse
from ray_s2v.model.rope import rotary_table
from ray_s2v.model.transformer import WanS2VTransformer3DModel
from ray_s2v.model.tread import Kept, Route, drawn
from ray_s2v.schema import Batch, ConfigError
from ray_s2v.training.routes import job_routes
from tests.jobs import changed
from tests.spawn.zero_runs import adapted_network, tiny_batch
from tests.tiny import TINY

CPU = torch.device("cpu")
FIRST, CONTINUATION, WITH_POSE = 0, 1, 2  # steps of tiny_batch
FRAMES, PER_FRAME = 2, 16  # tokens of its latents: two frames of 8 x 8


@pytest.mark.parametrize(("skipping", "count"), [(0.5, 8), (0.25, 12), (0.99, 1), (0.03, 16), (0.04, 15)])
def test_as_many_of_every_frame_in_their_order(skipping: float, count: int) -> None:
    found = drawn([Route(skipping, 1, 2)], 5, PER_FRAME, 0, CPU)
    if count == PER_FRAME:
        assert found == []
        return
    tokens = found[0].tokens
    assert tokens.diff().min() > 0
    assert (tokens // PER_FRAME).bincount(minlength=5).tolist() == [count] * 5


def test_another_draw_each_step_and_route_and_every_token_as_often() -> None:
    routes = [Route(0.5, 1, 2), Route(0.5, 4, 5)]
    one, other = drawn(routes, 3, PER_FRAME, 7, CPU)
    again, _ = drawn(routes, 3, PER_FRAME, 7, CPU)
    assert torch.equal(one.tokens, again.tokens)
    assert not torch.equal(one.tokens, other.tokens)
    times = torch.zeros(3 * PER_FRAME)
    for seed in range(2000):
        times[drawn(routes[:1], 3, PER_FRAME, seed, CPU)[0].tokens] += 1
    # 2000 draws of a half: standard deviation 22.
    assert (times - 1000).abs().max() < 110


def test_the_global_generator_is_left_alone() -> None:
    before = torch.random.get_rng_state()
    drawn([Route(0.5, 1, 2)], 3, PER_FRAME, 7, CPU)
    assert torch.equal(torch.random.get_rng_state(), before)


def batch_of(step: int, slots: list[int]) -> Batch:
    """Long texts: of a short one the gradients of text attention's queries are what is left of terms that cancel."""
    batch = tiny_batch(step, slots)
    batch.text = [3 * torch.randn(400, 16, generator=torch.Generator().manual_seed(10 * step + slot)) for slot in slots]
    return batch


def in_form(form: str) -> PeftModel:
    model = adapted_network(checkpointing=form == "checkpointed")
    if form in ("fast", "streamed"):
        fuse(model.base_model.model, FastForm(AS_WRITTEN, "cpu", blocks_per_group=1 if form == "streamed" else None), CPU)
    return model


def loss_and_gradients(model: PeftModel, batch: Batch, routes: list[Route]) -> dict[str, Tensor]:
    model.zero_grad()
    losses = clip_losses(model, batch, 3.0, routes)
    losses.sum().backward()
    return {"losses": losses.detach()} | {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("form", ["plain", "checkpointed", "fast", "streamed"])
@pytest.mark.parametrize("step", [FIRST, CONTINUATION])
def test_ratio_zero_is_no_tread_bit_for_bit(form: str, step: int) -> None:
    model = in_form(form)
    without = loss_and_gradients(model, batch_of(step, [0, 1]), [])
    found = loss_and_gradients(model, batch_of(step, [0, 1]), [Route(0.0, 1, 2)])
    assert found.keys() == without.keys()
    assert all(torch.equal(found[name], right) for name, right in without.items())
    other = loss_and_gradients(model, batch_of(step, [0, 1]), [Route(0.5, 1, 2)])
    assert not torch.equal(other["losses"], without["losses"])


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, right in expected.items():
        assert right.norm() > 0, name
        assert (found[name] - right).norm() <= 1e-5 * right.norm(), name


def written_out(network: WanS2VTransformer3DModel, index: int, kept: Kept | None, arguments: tuple[Any, ...]) -> Tensor:
    """Block `index` and its injection, which hears one frame after the other; tokens that skip are left as they came."""
    hidden, context, modulation, rotary, num_noisy, audio_global, audio_local = arguments
    goes = torch.zeros(hidden.shape[1], dtype=torch.bool)
    goes[num_noisy:] = True
    goes[:num_noisy] = True if kept is None else torch.isin(torch.arange(num_noisy), kept.tokens)
    through = network.blocks[index](hidden[:, goes], context, modulation, tuple(t[goes] for t in rotary), int(goes[:num_noisy].sum()))
    after = hidden.clone()
    after[:, goes] = through
    if index in network.injector_of_block:
        frame_of = torch.arange(hidden.shape[1]) // (num_noisy // audio_local.shape[1])
        for frame in range(audio_local.shape[1]):
            here = goes & (frame_of == frame)
            here[num_noisy:] = False
            of_frame = audio_global[:, frame : frame + 1], audio_local[:, frame : frame + 1]
            heard = network.audio_injector(network.injector_of_block[index], after[:, here], *of_frame, int(here.sum()))
            after = after.clone()
            after[:, here] = heard
    return after


class WrittenOut(torch.nn.Module):
    """The network with its blocks run by `written_out`; everything before and after them is its own."""

    def __init__(self, model: PeftModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, *args: Any, routes: list[Kept], **kwargs: Any) -> Tensor:
        network = self.model.base_model.model
        own = network._layer

        def layer(index: int, *arguments: Any) -> Tensor:
            kept = next((k for k in routes if k.route.first <= index <= k.route.last), None)
            return written_out(network, index, kept, arguments)

        network._layer = layer
        try:
            return self.model(*args, **kwargs)
        finally:
            network._layer = own


ROUTES = {
    "one": [Route(0.5, 1, 2)],
    "a single block": [Route(0.25, 2, 2)],
    "side by side": [Route(0.6, 1, 1), Route(0.3, 2, 2)],
}


@pytest.mark.parametrize("form", ["plain", "checkpointed", "fast", "streamed"])
@pytest.mark.parametrize("step", [FIRST, CONTINUATION, WITH_POSE])
@pytest.mark.parametrize("routes", ROUTES.values(), ids=ROUTES.keys())
def test_outputs_and_gradients_are_those_written_out(form: str, step: int, routes: list[Route]) -> None:
    batch = batch_of(step, [0, 1])
    slow = adapted_network()
    losses = clip_losses(WrittenOut(slow), batch, 3.0, routes)
    losses.sum().backward()
    expected = {"losses": losses.detach()} | {name: p.grad for name, p in slow.named_parameters() if p.grad is not None}
    found = loss_and_gradients(in_form(form), batch, routes)
    assert len(expected) > 50
    assert_same(found, expected)


@pytest.mark.parametrize("step", [FIRST, CONTINUATION])
def test_kept_tokens_keep_their_rotary_positions(step: int) -> None:
    """Recorded at each block of the real network."""
    model = adapted_network()
    network = model.base_model.model
    seen: dict[int, tuple[Tensor, int]] = {}
    for index, block in enumerate(network.blocks):
        block.register_forward_pre_hook(lambda _, given, index=index: seen.__setitem__(index, (torch.stack(given[3]), given[4])))
    batch, route = batch_of(step, [0]), Route(0.5, 1, 2)
    clip_losses(model, batch, 3.0, [route])
    whole = torch.stack(rotary_table(FRAMES, 8, 8, batch.motion is not None, TINY["attention_head_dim"], CPU))
    (kept,) = drawn([route], FRAMES, PER_FRAME, batch.seed, CPU)
    with_the_rest = torch.cat([kept.tokens, torch.arange(FRAMES * PER_FRAME, whole.shape[1])])
    for index, (rotary, num_noisy) in seen.items():
        inside = index in (1, 2)
        assert torch.equal(rotary, whole[:, with_the_rest] if inside else whole)
        assert num_noisy == FRAMES * PER_FRAME // (2 if inside else 1)
    assert len(seen) == 4
    assert len(torch.unique(whole.transpose(0, 1).flatten(1), dim=0)) == whole.shape[1], "every position has its own row"


@pytest.mark.timeout(600)
def test_compiled_is_as_written() -> None:
    def network(functions: Functions) -> PeftModel:
        model = adapted_network()
        fuse(model.base_model.model, FastForm(functions, "cpu"), CPU)
        return model

    notes: list[str] = []
    expected, found = (
        loss_and_gradients(network(functions), batch_of(CONTINUATION, [0]), [Route(0.5, 1, 2)])
        for functions in (AS_WRITTEN, compiled(notes.append))
    )
    assert notes == []
    assert_same(found, expected)


def job_of(*routes: tuple[float, int, int]) -> Job:
    keys = ("selection_ratio", "start_layer_idx", "end_layer_idx")
    return Job.model_validate(changed({"tread.routes": [dict(zip(keys, route, strict=True)) for route in routes]}))


def test_routes_of_a_job() -> None:
    assert job_routes(job_of(), 40) == []
    assert job_routes(job_of((0.5, 2, -2)), 40) == [Route(0.5, 2, 38)]
    assert job_routes(job_of((0.5, 20, 30), (0.1, 1, 19)), 40) == [Route(0.1, 1, 19), Route(0.5, 20, 30)]


def test_every_wrong_route_is_told_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        job_routes(job_of((0.5, 0, 3), (0.5, 4, -1), (0.5, 9, 8), (0.5, 5, 40), (0.5, 2, 10), (0.5, 10, 12)), 40)
    lines = str(caught.value).splitlines()
    assert [line.split(":")[0] for line in lines] == [f"tread.routes.{i}" for i in (0, 1, 2, 3, 5)]
    said = ["first and the last block", "first and the last block", "must not come after", "0 to 39", "overlap tread.routes.4"]
    assert all(text in line for text, line in zip(said, lines, strict=True))
