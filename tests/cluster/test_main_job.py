"""The main job as a person runs it: to its end, killed and run again, stopped by Ctrl-C, with other workers and another ZeRO stage."""

import shutil
import signal

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file

from ray_s2v.model.transformer import WanS2VTransformer3DModel
from ray_s2v.training.progress import complete_checkpoints
from tests.cluster.conftest import SHORT, STEPS, held_out, records, wait_for_step
from tests.cluster.faults import assert_went_on

pytestmark = pytest.mark.timeout(900)


def test_trains_to_its_end(undisturbed, demo_files):
    said, folder = undisturbed.said, undisturbed.folder
    assert undisturbed.exit_code == 0, said
    for bad in ("empty", "text", "truncated", "no_sound", "silent", "too_short", "no_caption"):
        assert f"bad_{bad}.mp4" in said
        assert f"bad_{bad}.mp4" in (folder / "rejected.csv").read_text()
    assert f"step {STEPS}/{STEPS}  loss " in said
    assert "Traceback" not in said

    seen = records(folder)
    assert [record["step"] for record in seen] == list(range(STEPS))
    for epoch in (seen[:6], seen[6:]):
        clips = [clip for record in epoch for clip in record["clip_ids"]]
        assert len(clips) == len(set(clips)) == 24
    assert [step for step, _ in complete_checkpoints(folder / "checkpoints")] == [9, 12]

    measured = held_out(folder)
    assert [line["step"] for line in measured] == [0, 6, STEPS]
    assert all(len(line["by_level"]) == 2 for line in measured), "as the job says"
    assert measured[-1]["loss"] < measured[0]["loss"], "what is learnt helps clips that were never seen"
    assert not {clip for line in measured for clip in line["clips"]} & {clip for record in seen for clip in record["clip_ids"]}
    assert f"held out after {STEPS} steps: loss {measured[-1]['loss']:.4f}" in said

    network = WanS2VTransformer3DModel.from_pretrained(demo_files / "weights", torch_dtype=torch.float32)
    inputs = {
        "latents": torch.ones(1, 16, 1, 8, 8),
        "timestep": torch.tensor([500.0]),
        "text": [torch.ones(3, 64)],
        "reference": torch.ones(1, 16, 1, 8, 8),
        "audio": torch.ones(1, 25, 32, 4),
    }
    with torch.no_grad():
        base = network(**inputs)
        network.load_lora_adapter(folder / "adapter")
        by_diffusers = network(**inputs)
        fresh = WanS2VTransformer3DModel.from_pretrained(demo_files / "weights", torch_dtype=torch.float32)
        by_peft = PeftModel.from_pretrained(fresh, folder / "adapter")(**inputs)
    assert not torch.allclose(base, by_diffusers, atol=1e-4), "the adapter has learnt something"
    torch.testing.assert_close(by_diffusers, by_peft, atol=1e-6, rtol=0)


def test_killed_and_stopped_runs_go_on(start, undisturbed, kept, tmp_path):
    """kill -9 of the driver, then Ctrl-C, then one worker at ZeRO-3: the same clips and losses as the undisturbed run."""
    run = tmp_path / "run"
    settings = [*SHORT, f"run.folder={run}"]
    killed = start(*settings)
    wait_for_step(run, 4, killed)
    killed.kill()
    killed.wait()

    stopped = start(*settings)
    wait_for_step(run, 7, stopped)
    stopped.send_signal(signal.SIGINT)
    said = stopped.communicate(timeout=60)[0]
    assert stopped.returncode == 130, said
    assert "the same command goes on from the last checkpoint" in said
    assert "Traceback" not in said
    assert_went_on(run, 1)

    second_life_end = len(records(run))
    last = start(*settings, *kept, "training.workers=1", "zero.stage=3")
    said = last.communicate(timeout=300)[0]
    assert last.returncode == 0, said
    assert records(run)[second_life_end]["step"] % 3 == 0

    expected = {record["step"]: record for record in records(undisturbed.folder)}
    for record in records(run):
        assert record["clip_ids"] == expected[record["step"]]["clip_ids"]
        assert record["losses"] == pytest.approx(expected[record["step"]]["losses"], abs=1e-5)
    assert {record["step"] for record in records(run)} == set(range(STEPS))
    measured = {line["step"]: line for line in held_out(undisturbed.folder)}
    for line in held_out(run):  # also one worker at ZeRO-3 where it were two at ZeRO-2
        for name in ("loss", "worse_without_sound", "worse_with_other_sound"):
            assert line[name] == pytest.approx(measured[line["step"]][name], abs=1e-5)
    assert {line["step"] for line in held_out(run)} == measured.keys()


def test_a_finished_run_is_left_alone_and_other_plans_are_refused(start, undisturbed):
    folder = undisturbed.folder
    before = (folder / "steps.jsonl").read_bytes()
    other = start(*SHORT, f"run.folder={folder}", "run.seed=7")
    said = other.communicate(timeout=120)[0]
    assert other.returncode == 2, said
    assert "belongs to another plan" in said
    adapter = load_file(folder / "adapter/adapter_model.safetensors")
    shutil.rmtree(folder / "adapter")  # as a kill after the last checkpoint would have it
    again = start(*SHORT, f"run.folder={folder}")
    said = again.communicate(timeout=120)[0]
    assert again.returncode == 0, said
    assert (folder / "steps.jsonl").read_bytes() == before
    again_adapter = load_file(folder / "adapter/adapter_model.safetensors")
    assert again_adapter.keys() == adapter.keys()
    assert all(torch.equal(again_adapter[name], tensor) for name, tensor in adapter.items())
