"""Weights that stream in groups from memory or a disk, what the forward pass keeps, page-locked memory: on a CPU, as plain copies."""

import weakref
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from ray_s2v.model.flow import clip_losses
from ray_s2v.model.fused.frozen import InMemory, OnDisk
from ray_s2v.model.fused.functions import AS_WRITTEN
from ray_s2v.model.fused.fuse import FastForm, fuse
from ray_s2v.model.fused.linear import Linear, Lora
from ray_s2v.model.fused.pinned import pinned
from ray_s2v.model.fused.quantize import FLOAT8
from ray_s2v.model.fused.residence import ALIGNMENT, Resident, Streamed
from ray_s2v.model.fused.stash import Stash
from ray_s2v.schema import ConfigError
from tests.spawn.zero_runs import adapted_network, tiny_batch

CPU = torch.device("cpu")
UNITS = 7
UP, DOWN = range(UNITS), range(UNITS - 1, -1, -1)


class Weights(NamedTuple):
    """A unit's, of all kinds that there are."""

    layer: Linear
    norm: Tensor


def weights(position: int) -> Weights:
    """Every unit of another size and with other numbers, none a multiple of the alignment."""
    generator = torch.Generator().manual_seed(position)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    out, into = 3 + position, 5 + position % 3
    weight = [normal(out, into), (50 * normal(out, into)).to(torch.int8), normal(out, into).to(FLOAT8)][position % 3]
    lora = Lora(nn.Parameter(normal(2, into)), nn.Parameter(normal(out, 2)), 0.5) if position % 2 else None
    frozen = nn.Parameter(weight, requires_grad=False)
    return Weights(Linear(frozen, normal(out).bfloat16(), normal(out, 1) if position % 3 else None, lora), normal(7))


def in_groups(count: int) -> list[list[int]]:
    """The positions in so many groups of nearly the same size."""
    bounds = [UNITS * index // count for index in range(count + 1)]
    return [list(range(*pair)) for pair in pairwise(bounds)]


@pytest.fixture(params=["memory", "disk"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> InMemory | OnDisk:
    return InMemory() if request.param == "memory" else OnDisk(tmp_path, CPU)


def same(found: Any, expected: Any) -> bool:
    found, expected = tree_leaves(found), tree_leaves(expected)
    return len(found) == len(expected) and all(
        a.dtype == b.dtype and a.shape == b.shape and torch.equal(a.float(), b.float()) if isinstance(b, Tensor) else a == b
        for a, b in zip(found, expected, strict=True)
    )


@pytest.mark.parametrize("count", range(1, UNITS + 1))
@pytest.mark.parametrize(
    "passes", [[UP, DOWN, UP, DOWN], [UP, UP, DOWN], [UP, UP, UP, DOWN, DOWN]], ids=["steps", "a pass without gradients", "others"]
)
def test_every_unit_has_its_own_weights_whatever_came_before(store: InMemory | OnDisk, count: int, passes: list[range]) -> None:
    streamed = Streamed([weights(position) for position in UP], in_groups(count), store, CPU)
    for order in passes:
        for position in order:
            found = streamed.weights(position)
            assert same(found, weights(position)), position
            assert isinstance(found, Weights)


def test_weights_stay_until_their_group_is_done(store: InMemory | OnDisk) -> None:
    """Those of one group are good together while the next group comes."""
    streamed = Streamed([weights(position) for position in UP], [[0, 1], [2, 3, 4], [5, 6]], store, CPU)
    for group in ([0, 1], [2, 3, 4], [5, 6], [4, 3, 2], [1, 0]):
        held = {position: streamed.weights(position) for position in group}
        assert all(same(found, weights(position)) for position, found in held.items())


@pytest.mark.parametrize("count", range(2, UNITS + 1))
def test_next_group_is_asked_for_while_one_computes(count: int) -> None:
    groups = in_groups(count)
    group_of = {position: group for group, positions in enumerate(groups) for position in positions}
    streamed = Streamed([weights(position) for position in UP], groups, InMemory(), CPU)
    for order, step in ((UP, 1), (DOWN, -1), (UP, 1), (DOWN, -1)):
        for position in order:
            streamed.weights(position)
            following = group_of[position] + step
            assert following in streamed._in_slot or following not in range(count)


def test_trained_tensors_stay_and_frozen_ones_go() -> None:
    units = [weights(position) for position in UP]
    streamed = Streamed(units, in_groups(3), InMemory(), CPU)
    for position, unit in enumerate(units):
        found = streamed.weights(position)
        for given, leaf in zip(tree_leaves(unit), tree_leaves(found), strict=True):
            if isinstance(given, Tensor) and not given.requires_grad:
                assert given.numel() == 0
                assert (leaf.data_ptr() - tree_leaves(found)[0].data_ptr()) % ALIGNMENT == 0
            else:
                assert leaf is given


def test_no_more_than_two_groups_are_on_the_device() -> None:
    streamed = Streamed([weights(position) for position in UP], in_groups(UNITS), InMemory(), CPU)
    places = {streamed.weights(position).norm.untyped_storage().data_ptr() for position in UP}
    assert len(places) == 2


def test_files_have_no_names_that_could_stay_behind(tmp_path: Path) -> None:
    folder = tmp_path / "not" / "there yet"
    streamed = Streamed([weights(position) for position in UP], in_groups(3), OnDisk(folder, CPU), CPU)
    assert list(folder.iterdir()) == []
    assert same(streamed.weights(0), weights(0))


def test_folder_that_cannot_hold_the_weights_is_the_users_mistake(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"offload.disk_path: .*file/folder cannot hold"):
        Streamed([weights(0)], [[0]], OnDisk(tmp_path / "file" / "folder", CPU), CPU)


def test_resident_weights_are_those_given() -> None:
    units = [weights(position) for position in UP]
    resident = Resident(units)
    assert all(resident.weights(position) is units[position] for position in (*UP, *DOWN))


def test_stash_gives_back_what_each_unit_kept_and_forgets_it() -> None:
    stash = Stash()
    for _ in range(2):
        kept = {position: [torch.randn(3, position + 1), None, torch.randn(2)] for position in UP}
        gone = []
        handles = [stash.keep(position, kept[position]) for position in UP]
        for position in DOWN:
            taken = stash.take(handles[position])
            assert all(found is given for found, given in zip(taken, kept.pop(position), strict=True))
            gone.append(weakref.ref(taken[0]))
            del taken
        assert all(reference() is None for reference in gone)


def test_what_is_kept_needs_no_gradient_as_what_comes_back_from_the_host_does_not() -> None:
    """Else the pullbacks are compiled once for each."""
    model = adapted_network()
    fuse(model.base_model.model, FastForm(AS_WRITTEN, "cpu"), torch.device("cpu"))
    loss = clip_losses(model, tiny_batch(0, [0]), 3.0).sum()
    newest, seen = model.base_model.model.blocks[0].unit.stash._newest, 0
    while newest and (kept := newest()):
        assert not any(tensor.requires_grad for tensor in kept.tensors if tensor is not None)
        newest, seen = kept.before, seen + 1
    assert seen == 7
    loss.backward()


def test_what_a_unit_kept_is_taken_once() -> None:
    stash = Stash()
    kept = stash.keep(0, [torch.zeros(1)])
    stash.take(kept)
    with pytest.raises(AssertionError):
        stash.take(kept)


def resident_bytes() -> int:
    """Of this process, in memory."""
    return 4096 * int(Path("/proc/self/statm").read_text().split()[1])


def test_pinned_memory_goes_back_with_its_tensor() -> None:
    size = 64 * 2**20
    buffer = pinned(size)
    assert (buffer.dtype, buffer.numel(), buffer.data_ptr() % 4096) == (torch.uint8, size, 0)
    before = resident_bytes()
    buffer.fill_(7)
    assert resident_bytes() - before > 0.9 * size
    part = buffer[-4096:].view(torch.float32)
    del buffer
    assert resident_bytes() - before > 0.9 * size  # a part keeps the whole
    assert (part.view(torch.uint8) == 7).all()
    del part
    assert resident_bytes() - before < 0.1 * size
