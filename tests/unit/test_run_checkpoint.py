"""Checkpoints are complete or absent, at whatever moment the process is killed or the disk fails."""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel
from peft.utils.save_and_load import load_peft_weights

from ray_s2v.model.lora import adapter_name, lora_config, with_lora
from ray_s2v.schema import ConfigError
from ray_s2v.training.checkpoint import State, load_state, save_checkpoint, save_final_adapter
from ray_s2v.training.progress import Progress, complete_checkpoints, load_progress
from tests.tiny import tiny_network

CONFIG = lora_config(4, 4, 0.0, ["to_q"], "all")
JOB = "run: {folder: größer}\n"
KILLED = 9
CHANGES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate"}  # of the file system, as Python's audit events


def progress(step: int) -> Progress:
    return Progress(step, "abcdef")


def state(step: int) -> State:
    """Tensors that tell their step."""
    name = "base_model.model.blocks.0.attn1.to_q.lora_A.weight"
    return State(
        {name: torch.full((4, 3), float(step))}, {f"{name}.exp_avg": torch.full((4, 3), step / 8), f"{name}.exp_avg_sq": torch.ones(4, 3)}
    )


def save(folder: Path, step: int, keep: int = 3) -> Path:
    return save_checkpoint(folder, progress(step), state(step), CONFIG, JOB, keep)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def assert_whole(folder: Path) -> None:
    """Everything that counts as a checkpoint loads, and is of the step that its name says."""
    for step, path in complete_checkpoints(folder):
        assert load_progress(path) == progress(step)
        loaded = load_state(path)
        for held, expected in ((loaded.adapter, state(step).adapter), (loaded.moments, state(step).moments)):
            assert held.keys() == expected.keys()
            assert all(torch.equal(held[name], tensor) for name, tensor in expected.items())
        assert (path / "job.yaml").read_text() == JOB


def killed_at(change: int, work: Callable[[], object]) -> bool:
    """Runs `work` in a child that dies, as by SIGKILL, just before its change number `change` of the file system; False if it got done."""
    child = os.fork()
    if not child:
        count = 0

        def die(event: str, arguments: tuple[Any, ...]) -> None:
            nonlocal count
            writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
            count += bool(event in CHANGES or writes)
            if count > change:
                os._exit(KILLED)

        status = 1
        try:
            sys.addaudithook(die)
            work()
            status = 0
        finally:
            os._exit(status)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status in (0, KILLED)
    return status == KILLED


def test_what_was_saved_is_loaded(tmp_path: Path) -> None:
    saved = save(tmp_path / "run" / "checkpoints", 12)
    assert complete_checkpoints(tmp_path / "run" / "checkpoints") == [(12, saved)]
    assert_whole(saved.parent)
    assert names(saved.parent) == ["step_000012"]


def test_adapter_in_it_loads_with_peft(tmp_path: Path) -> None:
    model = with_lora(tiny_network(), CONFIG, seed=3)
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    with torch.no_grad():
        for parameter in trained.values():
            parameter.normal_(generator=torch.Generator().manual_seed(4))
    adapter = {adapter_name(name): parameter.detach() for name, parameter in trained.items()}
    places = [save_checkpoint(tmp_path, progress(1), State(adapter, {}), CONFIG, JOB, 3), tmp_path / "adapter"]
    save_final_adapter(places[1], adapter, CONFIG)
    for place in places:
        loaded = dict(PeftModel.from_pretrained(tiny_network(), str(place)).named_parameters())
        assert all(torch.equal(loaded[name], parameter) for name, parameter in trained.items())
        assert LoraConfig.from_pretrained(str(place)).r == 4


@pytest.mark.parametrize("keep", [1, 2, 5])
def test_keep_prunes_the_oldest(tmp_path: Path, keep: int) -> None:
    for step in (6, 12, 18, 24):
        save(tmp_path, step, keep)
    assert [step for step, _ in complete_checkpoints(tmp_path)] == [6, 12, 18, 24][-keep:]
    assert_whole(tmp_path)
    assert all(name.startswith("step_") for name in names(tmp_path))


def test_steps_of_seven_digits_are_newer_than_those_of_six(tmp_path: Path) -> None:
    for step in (999_998, 999_999, 1_000_000):
        save(tmp_path, step, 2)
    assert [path.name for _, path in complete_checkpoints(tmp_path)] == ["step_999999", "step_1000000"]


def test_same_step_twice_holds_the_later(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, progress(6), state(1), CONFIG, "old", 1)
    (tmp_path / "step_000006" / "stray").touch()
    save(tmp_path, 6, keep=1)
    assert_whole(tmp_path)
    assert names(tmp_path) == ["step_000006"]
    assert not (tmp_path / "step_000006" / "stray").exists()


def test_nothing_else_counts_as_a_checkpoint(tmp_path: Path) -> None:
    assert complete_checkpoints(tmp_path / "absent") == []
    for name in (".partial-step_000001", ".partial-old-step_000002", "step_12", "step_000003.tmp", "step_", "adapter", "xstep_000004"):
        (tmp_path / name).mkdir()
    assert complete_checkpoints(tmp_path) == []


@pytest.mark.parametrize("rewrite", [False, True])
def test_killed_at_any_moment_leaves_whole_checkpoints_only(tmp_path: Path, rewrite: bool) -> None:
    """With two there and two kept: the newest before, or the new one, is always there, and the next save cleans up."""
    change = 0
    while True:
        folder = tmp_path / str(change)
        for step in (1, 2):
            save(folder, step, keep=2)
        new = 2 if rewrite else 3
        killed = killed_at(change, lambda folder=folder, new=new: save(folder, new, keep=2))
        there = [step for step, _ in complete_checkpoints(folder)]
        assert_whole(folder)
        assert there == sorted(set(there) & {1, 2, 3})
        assert 2 in there or rewrite
        assert 1 in there or 3 in there
        save(folder, 4, keep=2)
        assert [step for step, _ in complete_checkpoints(folder)] == sorted([*there, 4])[-2:]
        assert_whole(folder)
        assert not [name for name in names(folder) if not name.startswith("step_")]
        if not killed:
            break
        change += 1
    assert change > 10


def test_final_adapter_killed_at_any_moment_is_whole_or_absent_and_can_be_written_again(tmp_path: Path) -> None:
    change = 0
    while True:
        folder = tmp_path / str(change) / "adapter"
        save_final_adapter(folder, state(1).adapter, CONFIG)
        killed = killed_at(change, lambda folder=folder: save_final_adapter(folder, state(2).adapter, CONFIG))
        if folder.exists():
            assert names(folder) == ["adapter_config.json", "adapter_model.safetensors"]
        for step in (3, 4):  # a run that goes on, and another after it
            save_final_adapter(folder, state(step).adapter, CONFIG)
            assert [float(tensor.unique()) for tensor in load_peft_weights(str(folder), device="cpu").values()] == [float(step)]
        assert names(folder.parent) == ["adapter"]
        if not killed:
            break
        change += 1
    assert change > 5


@pytest.mark.parametrize("function", ["fsync", "rename"])
@pytest.mark.parametrize("calls", range(9))
def test_disk_that_fails_leaves_whole_checkpoints_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, function: str, calls: int) -> None:
    """The disk that is full or gone raises; what had its name before keeps it, and the next save cleans up."""
    save(tmp_path, 1, keep=1)
    real, count = getattr(os, function), 0

    def failing(*arguments: Any) -> None:
        nonlocal count
        count += 1
        if count > calls:
            raise OSError(28, "No space left on device")
        real(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(os, function, failing)
        try:
            save(tmp_path, 2, keep=1)
        except OSError:
            failed = True
        else:
            failed = False
    there = [step for step, _ in complete_checkpoints(tmp_path)]
    assert there in ([1], [1, 2], [2])
    # fsync of the 6 files and their folder comes before the name, that of the parent after it; renames are the name and the pruning.
    assert failed == (calls < (8 if function == "fsync" else 2))
    assert (2 in there) == (calls >= (7 if function == "fsync" else 1))
    assert names(tmp_path) == [f"step_{step:06d}" for step in there], "half a checkpoint is not left on a full disk"
    assert_whole(tmp_path)
    save(tmp_path, 3, keep=1)
    assert_whole(tmp_path)
    assert names(tmp_path) == ["step_000003"]


def test_files_reach_the_disk_before_the_folder_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, synced = os.fsync, []

    def noted(descriptor: int) -> None:
        synced.append((Path(os.readlink(f"/proc/self/fd/{descriptor}")).name, bool(complete_checkpoints(tmp_path))))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", noted)
    target = save(tmp_path, 1)
    before = {name for name, published in synced if not published}
    assert before == {*names(target), f".partial-{target.name}"}
    assert [name for name, published in synced if published] == [tmp_path.name]


@pytest.mark.parametrize(
    "content",
    [None, b"", b"{", b"\xff", b"[]", b"3", b'{"step": 1}', json.dumps({"step": 1, "plan": "x", "more": 3}).encode()],
)
def test_folder_that_is_no_checkpoint_is_refused_by_name(tmp_path: Path, content: bytes | None) -> None:
    folder = tmp_path / "step_000007"
    with pytest.raises(ConfigError, match="step_000007 is no checkpoint"):
        load_progress(folder)
    folder.mkdir()
    if content is not None:
        (folder / "progress.json").write_bytes(content)
    with pytest.raises(ConfigError, match="step_000007 is no checkpoint"):
        load_progress(folder)
