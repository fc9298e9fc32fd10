"""What `python -m ray_s2v.bench` computes around the measurement: shapes, weights, figures, tables, and what it refuses."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from ray_s2v.bench import main
from ray_s2v.benchmark.compare import Variant, folder_of, read_list, reason
from ray_s2v.benchmark.figures import Measured, report, shares_of
from ray_s2v.benchmark.flops import forward_flops
from ray_s2v.benchmark.measure import Rate, Step, Steps
from ray_s2v.benchmark.random_weights import RandomWeights
from ray_s2v.benchmark.synthetic import bucket_of, synthetic_batch
from ray_s2v.benchmark.table import comparison_table, run_table
from ray_s2v.config.job import Job
from ray_s2v.model.transformer import WanS2VTransformer3DModel
from ray_s2v.schema import Bucket, ConfigError
from ray_s2v.training.lack_of_memory import does_not_fit
from tests.jobs import changed
from tests.tiny import TINY, tiny_network

CPU = torch.device("cpu")
JOBS = Path(__file__).parents[2] / "jobs"


def job_of(changes: dict[str, Any]) -> Job:
    return Job.model_validate(changed(changes))


def tiny_folder(folder: Path) -> str:
    """A folder that says how large the tiny network is, and holds no weights."""
    (folder / "config.json").write_text(json.dumps(TINY))
    return str(folder)


@pytest.mark.parametrize(
    ("source", "bucket"),
    [
        ({}, Bucket(832, 480, 80)),
        ({"resolution": "448x256", "num_frames": 76}, Bucket(448, 256, 76)),
        ({"resolution": 640, "resolution_type": "pixel_area"}, Bucket(640, 640, 80)),
        ({"resolution": 650, "resolution_type": "pixel"}, Bucket(656, 656, 80)),
        ({"resolution": 0.25, "resolution_type": "area"}, Bucket(496, 496, 80)),
        ({"bucket_strategy": "resolution_frames", "frame_interval": 32, "num_frames": 80}, Bucket(832, 480, 64)),
    ],
)
def test_bucket_of_the_first_source_that_is_trained_on(source: dict[str, Any], bucket: Bucket) -> None:
    held_out = {"path": "eval", "is_eval": True, "resolution": "64x64"}
    assert bucket_of(job_of({"data.sources": [held_out, {"path": "a", **source}, {"path": "b", "resolution": "96x96"}]})) == bucket


def test_batches_are_as_the_network_takes_them() -> None:
    network, bucket = tiny_network(), Bucket(80, 64, 12)
    for has_motion, motion in ((False, None), (True, (2, 16, 19, 8, 10))):
        batch = synthetic_batch(network.config, bucket, 2, has_motion, 0, CPU)
        assert batch.latents.shape == batch.noise.shape == (2, 16, 3, 8, 10)
        assert batch.audio.shape == (2, TINY["num_weighted_avg_layers"], TINY["audio_dim"], 12)
        assert (batch.motion if batch.motion is None else batch.motion.shape) == motion
        with torch.no_grad():
            out = network(batch.latents, batch.noise_level, batch.text, batch.reference, batch.motion, audio=batch.audio)
        assert out.shape == batch.latents.shape


def test_random_weights_are_the_same_wherever_they_lie(tmp_path: Path) -> None:
    path = tiny_folder(tmp_path)
    apart = RandomWeights(path, CPU, shared_on_host=False).read(torch.bfloat16, lambda _: CPU)
    shared = RandomWeights(path, CPU, shared_on_host=True).read(torch.bfloat16, lambda _: CPU)
    for (name, one), (_, other) in zip(apart.named_parameters(), shared.named_parameters(), strict=True):
        exact = any(part in WanS2VTransformer3DModel._keep_in_fp32_modules for part in name.split("."))
        assert one.dtype == (torch.float32 if exact else torch.bfloat16)
        assert torch.equal(one, other)
        if one.numel() > 100:
            assert one.detach().float().std().item() == pytest.approx(0.02, rel=0.3)
    layers = [shared.blocks[index].attn1.to_q.weight for index in (0, 1)]
    assert layers[0].data_ptr() == layers[1].data_ptr()
    assert not torch.equal(layers[0], shared.blocks[0].attn2.to_q.weight)
    assert apart.blocks[0].attn1.to_q.weight.data_ptr() != apart.blocks[1].attn1.to_q.weight.data_ptr()
    layers[0].data = torch.empty(0)  # as streaming leaves a block's module
    assert torch.equal(layers[1], apart.blocks[1].attn1.to_q.weight)


def test_random_weights_without_a_folder_are_the_14b() -> None:
    outline = RandomWeights("Wan-AI/Wan2.2-S2V-14B", CPU, shared_on_host=False).outline()
    assert sum(p.numel() for p in outline.parameters()) == 16_295_755_609
    assert {p.device.type for p in outline.parameters()} == {"meta"}


def two_workers() -> list[Measured]:
    """The first worker is the faster one in the forward pass, the second in the backward pass."""
    first = [Steps(9.0, 60.0, 61.0, [Step(10, 30, 2, 0.5), Step(20, 40, 2, 0.25), Step(10, 30, 2, 0.125)])]
    second = [Steps(8.0, 62.0, 63.0, [Step(12, 30, 2, 0.5), Step(22, 38, 2, 0.75), Step(12, 30, 2, 0.375)])]
    longer = [Steps(9.0, 70.0, 71.0, [Step(40, 44, 4, 1.0)] * 3)]
    kinds = ("first", "continuation")
    return [
        Measured(5.0, Rate(800.0, 600.0), 33.0, dict(zip(kinds, first + longer, strict=True)), {}),
        Measured(6.0, Rate(600.0, 400.0), 35.0, dict(zip(kinds, second + longer, strict=True)), {}),
    ]


def tiny_report() -> dict[str, Any]:
    job = job_of({"training.batch_size": 2, "training.global_batch": 8, "training.continuation": 0.25})
    return report(job, Bucket(64, 64, 8), tiny_network().config, CPU, "it takes little", None, two_workers())


def test_figures_in_closed_form() -> None:
    found = tiny_report()
    first, continuation, mixed = found["first"], found["continuation"], found["mixed"]
    assert (found["build_s"], found["host_gib"]) == (6.0, [33.0, 35.0])
    assert (found["burst_tflop_per_s"], found["sustained_tflop_per_s"]) == (700.0, 500.0)
    # Of each step the slower worker, of the steps the median.
    assert [first[part] for part in ("step_ms", "forward_ms", "backward_ms", "optimizer_ms")] == [44, 12, 30, 2]
    assert (first["first_step_s"], first["loss"], first["allocated_gib"]) == (9.0, 0.25, [60.0, 62.0])
    assert first["steps"][1] == {
        "step_ms": [62, 62], "forward_ms": [20, 22], "backward_ms": [40, 38], "optimizer_ms": [2, 2], "loss": [0.25, 0.75],
    }  # fmt: skip
    assert first["tokens"] == 2 * (2 * 16 + 16)
    assert continuation["tokens"] == 2 * (2 * 16 + 16 + 16 + 4 + 4)
    flops = forward_flops(tiny_network().config, Bucket(64, 64, 8), 2, False)
    tflop_per_s = (2 * flops.linear + 3 * flops.attention) / 1e12 / 0.044
    assert first["tflop_per_s_each"] == pytest.approx(tflop_per_s)
    assert [first["of_burst"], first["of_sustained"]] == pytest.approx([tflop_per_s / 700, tflop_per_s / 500])
    assert first["tokens_per_s"] == pytest.approx(2 * first["tokens_per_s_each"]) == pytest.approx(2 * 96 / 0.044)
    assert mixed["step_ms"] == pytest.approx(0.75 * 44 + 0.25 * 88) == 55
    assert mixed["clips_per_hour_each"] == pytest.approx(3600 * 2 / 0.055)
    assert mixed["clips_per_hour"] == pytest.approx(3600 * 4 / 0.055)
    assert mixed["allocated_gib"] == [70.0, 70.0]
    assert found["settings"]["training.continuation"] == 0.25
    assert found["settings"]["model.base_precision"] == "bf16"


def test_the_table_has_the_words_of_the_json_and_the_largest_of_all_workers() -> None:
    found = tiny_report()
    table = run_table(found)
    rows = {line.split()[0]: line.split()[1:] for line in table.splitlines() if line and not line.startswith(" ")}
    assert rows.keys() == (found.keys() | found["first"].keys()) - {"first", "continuation", "mixed", "steps"}
    assert rows["step_ms"] == ["44", "88", "55"]
    assert rows["forward_ms"] == ["12", "40"]
    assert rows["host_gib"] == ["35"]
    assert rows["allocated_gib"] == ["62", "70", "70"]
    assert max(map(len, table.splitlines())) <= 120


def test_where_the_gpus_time_goes_is_shown_for_each_kind() -> None:
    gpu_ms = [{"products": 20.0, "idle": 1.0}, {"products": 18.0, "idle": 3.0}]
    workers = [replace(worker, gpu_ms={"first": own, "continuation": own}) for worker, own in zip(two_workers(), gpu_ms, strict=True)]
    job = job_of({"training.continuation": 0.25})
    found = report(job, Bucket(64, 64, 8), tiny_network().config, CPU, "it takes little", None, workers)
    assert found["first"]["gpu_ms"] == found["continuation"]["gpu_ms"] == {"products": [20, 18], "idle": [1, 3]}
    rows = {line.split()[0]: line.split()[1:] for line in run_table(found).splitlines() if line}
    assert rows["gpu_ms.products"] == ["20", "20"]
    assert rows["gpu_ms.idle"] == ["3", "3"]
    assert "gpu_ms" not in tiny_report()["first"]


@pytest.mark.parametrize(("continuation", "kind"), [(0, "first"), (1, "continuation")])
def test_a_job_of_one_kind(continuation: float, kind: str) -> None:
    job = job_of({"training.continuation": continuation})
    assert shares_of(job) == {kind: 1}
    workers = [replace(worker, steps={kind: worker.steps[kind]}) for worker in two_workers()]
    found = report(job, Bucket(64, 64, 8), tiny_network().config, CPU, "it takes little", None, workers)
    both = {"first", "continuation"}
    assert found.keys() & both == {kind}
    assert {key: found["mixed"][key] for key in ("step_ms", "tokens")} == {key: found[kind][key] for key in ("step_ms", "tokens")}
    assert found["mixed"]["allocated_gib"] == found[kind]["allocated_gib"]
    rows = {line.split()[0]: line.split()[1:] for line in run_table(found).splitlines() if line}
    step_ms = f"{found[kind]['step_ms']:g}"
    assert rows[kind] == ["mixed"]
    assert rows["step_ms"] == [step_ms, step_ms]
    *_, heads, names, row = comparison_table([{"name": "one", "set": [], **found}]).splitlines()
    assert set(heads.split()) & both == {kind}
    assert names.split()[-1] == "loss"
    assert row.split()[-1] == f"{found[kind]['loss']:g}"


def test_a_comparison_shows_every_run() -> None:
    good = tiny_report()
    lines = comparison_table(
        [{"name": "as it is", "set": [], **good}, {"name": "too large", "set": [], "failed": "out of memory"}]
    ).splitlines()
    assert len(lines) == 4
    heads = [line.split() for line in lines[:2]]
    assert heads[1] == ["name", "step_ms", "step_ms", "clips_per_hour", "allocated_gib", "host_gib", "loss", "loss"]
    assert heads[0] == ["first", "continuation", "mixed", "mixed", "first", "continuation"]
    assert lines[2].split()[:5] == ["as", "it", "is", "44", "88"]
    assert lines[3].split(maxsplit=2) == ["too", "large", "failed: out of memory"]


def test_a_list_of_both_forms(tmp_path: Path) -> None:
    file = tmp_path / "list.yaml"
    file.write_text("- {name: as it is, set: []}\n- [model.base_precision=int8, lora.rank=8]\n")
    assert read_list(file) == [
        Variant("as it is", []),
        Variant("model.base_precision=int8 lora.rank=8", ["model.base_precision=int8", "lora.rank=8"]),
    ]


def test_folders_of_a_list_have_names_of_their_own() -> None:
    assert folder_of(0, "as it is") == "0-as-it-is"
    assert folder_of(1, "model.base_precision=int8 lora.targets=[to_q]") == "1-model.base-precision=int8-lora.targets=-to-q"
    for name in ("a/b", "a b", "../..", "层", "x" * 300):
        folder = folder_of(2, name)
        assert Path(folder).name == folder
        assert folder.isascii()
        assert len(folder) < 100
        assert folder != folder_of(3, name)


def test_the_shipped_list_is_of_the_14b_job() -> None:
    from ray_s2v.job_file import load_job

    variants = read_list(JOBS / "compare/precisions.yaml")
    jobs = [load_job(str(JOBS / "wan_s2v_14b_lora.yaml"), variant.settings) for variant in variants]
    assert [job.model.base_precision for job in jobs] == ["bf16", "fp8", "int8", "bf16", "int8"]
    assert [job.training.gpu_memory_gib for job in jobs] == [None, None, None, 24, 24]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("a: 1\n", "must be a YAML list"),
        ("[]\n", "must be a YAML list"),
        ("- [\n", "no readable YAML"),
        ("- {name: a, set: []}\n- model.base_precision=int8\n", "item 1 is 'model.base_precision=int8'"),
        ("- {name: a, sets: []}\n", "item 0 is"),
        ("- {name: a, set: [1]}\n", "item 0 is"),
        ("- {name: a, set: []}\n- {name: a, set: []}\n", "a name of its own"),
    ],
)
def test_wrong_lists(tmp_path: Path, content: str, told: str) -> None:
    file = tmp_path / "list.yaml"
    file.write_text(content)
    with pytest.raises(ConfigError, match=told) as caught:
        read_list(file)
    assert str(file) in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--steps", "0"], "--steps: must be a whole number of steps, at least 1, not 0"),
        (["--steps", "2.5"], "at least 1, not 2.5"),
        (["--step", "3"], "[--steps N]"),
        (["--compare", "nowhere.yaml"], "nowhere.yaml: No such file"),
        (["--out", "nowhere/out.json"], "must be a file in a folder that is there"),
        (["--profile", "{tiny}/config.json"], "config.json: File exists; it must be a folder"),
        (["--profile", "{tiny}/config.json/traces"], "config.json/traces: Not a directory; it must be a folder"),
        (["--profile", "/proc/traces"], "/proc/traces: No such file or directory; it must be a folder"),
        (["--profile", "/proc/self"], "/proc/self: "),
        (["training.stepz=3"], "did you mean steps?"),
        (["training.worker_gpus=0"], "give a folder whose config.json"),
        (["training.workers=64", "training.global_batch=64"], "give training.workers="),
        (["training.worker_gpus=0", "model.path={tiny}", "lora.targets=[to_x]"], "no linear layer"),
    ],
)
def test_mistakes_are_told_with_exit_code_2(tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], told: str) -> None:
    file = tmp_path / "job.yaml"
    file.write_text(yaml.safe_dump(changed({"training.workers": 1})))
    given = [argument.format(tiny=tiny_folder(tmp_path)) for argument in arguments]
    try:
        code = main([str(file), *given])
    except SystemExit as exit_of_argparse:
        code = exit_of_argparse.code
    assert code == 2
    assert told in capsys.readouterr().err


def test_a_list_with_a_wrong_job_is_refused_before_anything_is_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, variants = tmp_path / "job.yaml", tmp_path / "list.yaml"
    file.write_text(yaml.safe_dump(changed({"training.worker_gpus": 0, "model.base_precision": "fp32"})))
    variants.write_text("- []\n- {name: narrow, set: [model.base_precision=fp8]}\n- {name: typed wrong, set: [training.stepz=3]}\n")
    assert main([str(file), "--compare", str(variants)]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert [line for line in printed.err.splitlines() if line.endswith(":")] == ["narrow:", "typed wrong:"]
    assert "fp8 runs on GPUs" in printed.err


def test_why_a_run_failed() -> None:
    assert reason("a warning\n\njob.yaml: 2 mistakes\n  one\n  two\n", 2) == "job.yaml: 2 mistakes; one; two"
    assert reason("\ndoes not fit: CUDA out of memory\n", 1) == "does not fit: CUDA out of memory"
    assert (
        reason("Traceback (most recent call last):\n  File x\n\nTraceback (most recent call last):\nValueError: bad\n", 1)
        == "ValueError: bad"
    )
    assert reason("", 3) == "exit code 3"
    assert reason("", -9) == "ended by signal 9"


def test_what_does_not_fit_is_told_with_figures_and_settings() -> None:
    said = "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.10 GiB of which 1.2 GiB is free. If reserved"
    told = does_not_fit(torch.OutOfMemoryError(said), CPU)
    assert told.startswith("does not fit: CUDA out of memory. Tried to allocate 2.00 GiB. At the peak ")
    assert "GiB of host memory" in told
    for setting in ("training.gpu_memory_gib", "model.feed_forward_chunks", "model.base_precision", "training.batch_size"):
        assert setting in told
