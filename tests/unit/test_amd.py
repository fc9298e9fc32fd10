"""What is chosen, refused and told for AMD's GPUs. None has run it: these are the choices alone."""

from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import ValidationError
from ray._private.accelerators.amd_gpu import amd_product_dict

from ray_s2v.config.job import AMD, AMD_WITH_FLOAT8, Job
from ray_s2v.config.job import Model as ModelSettings
from ray_s2v.job_file import load_job
from ray_s2v.model.fused.attention import kernels
from ray_s2v.reporting.amd import PRECISIONS, on_amd
from tests.jobs import changed

MI300X, MI250X = "AMD-Instinct-MI300X-OAM", "AMD-Instinct-MI250X"
CLUSTER_JOB = Path(__file__).parents[2] / "jobs/cluster_mi300x.yaml"


def job(**changes: Any) -> Job:
    wanted = {"training.accelerator_type": MI300X, "training.worker_gpus": 1}
    return Job.model_validate(changed(wanted | {key.replace("__", "."): value for key, value in changes.items()}))


def test_names_are_rays() -> None:
    assert all(name.startswith(AMD) for name in amd_product_dict.values())
    gfx942 = {"AMD-Instinct-MI300A", MI300X, "AMD-Instinct-MI308X-OAM", "AMD-Instinct-MI300X-HF", "AMD-Instinct-MI325X-OAM"}
    assert {name for name in amd_product_dict.values() if name.startswith(AMD_WITH_FLOAT8)} == gfx942


def test_cudnn_is_never_tried_on_amd_unless_it_is_named() -> None:
    settings = get_args(ModelSettings.model_fields["attention"].annotation)
    assert {setting: kernels(setting, on_amd=True) for setting in settings} == {
        "auto": ("flash", "efficient"),
        "cudnn": ("cudnn",),
        "flash": ("flash",),
        "sdpa": ("efficient",),
    }
    assert kernels("auto", on_amd=False) == ("cudnn", "flash", "efficient")
    assert all(kernels(setting, on_amd=True) == kernels(setting, on_amd=False) for setting in settings if setting != "auto")


@pytest.mark.parametrize(
    ("kind", "setting", "value", "told"),
    [
        (
            MI300X,
            "attention",
            "cudnn",
            f"model.attention cudnn is NVIDIA's, but training.accelerator_type is {MI300X}: give auto, flash or sdpa",
        ),
        (MI250X, "base_precision", "fp8", f"fp8 is in MI300's format on AMD's GPUs, which {MI250X} has not: give int8 or bf16"),
        ("AMD-Instinct-MI355X-OAM", "base_precision", "fp8", "give int8 or bf16"),
    ],
)
def test_what_amd_lacks_is_refused_before_a_gpu_is_asked(kind: str, setting: str, value: str, told: str) -> None:
    with pytest.raises(ValidationError) as caught:
        job(training__accelerator_type=kind, **{f"model__{setting}": value})
    assert told in str(caught.value)
    job(training__accelerator_type="H100", **{f"model__{setting}": value})


@pytest.mark.parametrize(
    ("setting", "value"), [("attention", "flash"), ("attention", "sdpa"), ("base_precision", "fp8"), ("base_precision", "int8")]
)
def test_what_amd_has_is_not_refused(setting: str, value: str) -> None:
    job(**{f"model__{setting}": value})


def test_encoders_on_amd_do_not_bind_workers_on_another_kind() -> None:
    job(training__accelerator_type="H100", encoders__vae__accelerator_type=MI300X, encoders__vae__gpus=1, model__attention="cudnn")


def test_what_check_says_of_the_job_for_mi300x() -> None:
    first, *lines = on_amd(load_job(str(CLUSTER_JOB))).splitlines()
    assert first == "workers on AMD's GPUs, of which none has run this yet, use"
    told = dict(line.strip().split(": ", 1) for line in lines)
    assert told["attention"] == "the faster of torch's flash and efficient, by AOTriton; no cudnn"
    assert told["precision"].startswith("bf16 weights and products")
    assert told["optimizer"].startswith("torch's fused AdamW under ZeRO-2")
    assert told["communication"].startswith("RCCL")
    assert "HIP_VISIBLE_DEVICES" in told["GPUs"]


@pytest.mark.parametrize("precision", get_args(ModelSettings.model_fields["base_precision"].annotation))
@pytest.mark.parametrize("attention", ["auto", "sdpa"])
def test_lines_fit_and_follow_the_settings(precision: str, attention: str) -> None:
    lines = on_amd(job(model__base_precision=precision, model__attention=attention, model__compile=False, zero__stage=1)).splitlines()
    assert max(map(len, lines)) <= 120
    assert f"  precision: {PRECISIONS[precision]}" in lines
    assert "  compiled: no" in lines
    assert any("ZeRO-1" in line for line in lines)
    assert any("flash" in line for line in lines) == (attention == "auto")
