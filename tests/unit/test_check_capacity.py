"""What a cluster that is too small is told: what is short, which settings ask for it, and which kinds of GPU there are."""

from typing import Any

import pytest
import ray

from ray_s2v.config.job import Job
from ray_s2v.schema import ConfigError
from ray_s2v.training.cluster import check_encoding, check_training
from tests.jobs import changed

# Two workers of 1.5 CPUs and a GPU; encoders of 1, 2 x 0.5 and 0.25 CPUs and 0.5, 2 x 0.25 and 0 GPUs at least; 0.75 CPUs to decode.
ASKS: dict[str, Any] = {
    "training.workers": 2,
    "training.worker_cpus": 1.5,
    "training.worker_gpus": 1,
    "data.decode_cpus": 0.75,
    "encoders.vae.actors": {"min": 1, "max": 9},
    "encoders.vae.cpus": 1,
    "encoders.vae.gpus": 0.5,
    "encoders.speech.actors": 2,
    "encoders.speech.cpus": 0.5,
    "encoders.speech.gpus": 0.25,
    "encoders.text.cpus": 0.25,
}
TRAINING = {"CPU": 3.75, "GPU": 2}
WITH_ENCODERS = {"CPU": 6.0, "GPU": 3}
ENCODING = {"video": {"CPU": 1.75, "GPU": 0.5}, "speech": {"CPU": 1.75, "GPU": 0.5}, "text": {"CPU": 1.0, "GPU": 0}}
KINDS = {"accelerator_type:A100": 1.0, "accelerator_type:L40S": 1.0, "memory": 1e12, "node:10.0.0.7": 1.0}


def job(**changes: Any) -> Job:
    return Job.model_validate(changed(ASKS | {key.replace("__", "."): value for key, value in changes.items()}))


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """What `ray.cluster_resources` says; without a cluster, nothing."""
    resources: dict[str, float] = {}
    monkeypatch.setattr(ray, "cluster_resources", lambda: resources)
    return resources


def check(what: str, given: Job) -> None:
    if what in ENCODING:
        check_encoding(given, what)
    else:
        check_training(given, with_encoders=what == "training with encoders")


NEEDED = {"training": TRAINING, "training with encoders": WITH_ENCODERS, **ENCODING}


@pytest.mark.parametrize("what", NEEDED)
def test_cluster_that_is_just_large_enough_will_do(cluster: dict[str, float], what: str) -> None:
    cluster |= NEEDED[what] | KINDS
    check(what, job())


@pytest.mark.parametrize(("what", "short"), [(what, name) for what in NEEDED for name in ("CPU", "GPU") if NEEDED[what][name]])
def test_what_is_short_is_told_with_how_much_there_is(cluster: dict[str, float], what: str, short: str) -> None:
    needed = NEEDED[what]
    cluster |= needed | {short: needed[short] - 0.25}
    with pytest.raises(ConfigError) as caught:
        check(what, job())
    told = str(caught.value)
    assert told.startswith(f"the job needs {needed[short]:g} {short}s (the cluster has {needed[short] - 0.25:g}): ")
    assert told.count("the cluster has") == 1, "of the other there is enough"


def test_all_that_is_short_and_all_that_asks_are_told_together(cluster: dict[str, float]) -> None:
    """A cluster without a GPU does not list any."""
    cluster |= {"CPU": 2.0}
    with pytest.raises(ConfigError) as caught:
        check_training(job(), with_encoders=True)
    assert str(caught.value) == (
        "the job needs 6 CPUs (the cluster has 2) and 3 GPUs (the cluster has 0): "
        "training.workers = 2 with 1.5 CPUs and 1 GPUs each; data.decode_cpus with 0.75 CPUs and 0 GPUs each; "
        "encoders.vae.actors = 1 with 1 CPUs and 0.5 GPUs each; encoders.speech.actors = 2 with 0.5 CPUs and 0.25 GPUs each; "
        "encoders.text.actors = 1 with 0.25 CPUs and 0 GPUs each. Lower some of these, or give Ray more"
    )


@pytest.mark.parametrize(("kind", "name"), [("video", "vae"), ("speech", "speech"), ("text", "text")])
def test_encoding_is_told_by_the_settings_that_it_asks_with(cluster: dict[str, float], kind: str, name: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check_encoding(job(), kind)
    others = {"vae", "speech", "text"} - {name}
    assert f"encoders.{name}.actors = " in str(caught.value)
    assert "data.decode_cpus" in str(caught.value)
    assert not any(f"encoders.{other}" in str(caught.value) for other in others)
    assert "training.workers" not in str(caught.value)


def test_encoders_of_a_job_whose_features_are_stored_ask_for_nothing(cluster: dict[str, float]) -> None:
    cluster |= TRAINING
    check_training(job(encoders__vae__accelerator_type="H100"), with_encoders=False)
    with pytest.raises(ConfigError, match="H100"):
        check_training(job(encoders__vae__accelerator_type="H100"), with_encoders=True)


def test_rounding_of_fractions_asks_for_no_more_than_there_is(cluster: dict[str, float]) -> None:
    """Three tenths are 0.30000000000000004."""
    given = job(training__worker_gpus=0, encoders__speech__actors=3, encoders__speech__cpus=0.1, encoders__speech__gpus=0.1)
    assert 3 * 0.1 > 0.3
    cluster |= {"CPU": 0.3 + 0.75, "GPU": 0.3}
    check_encoding(given, "speech")


@pytest.mark.parametrize(
    ("setting", "what"),
    [
        ("training.accelerator_type", "training"),
        ("encoders.vae.accelerator_type", "video"),
        ("encoders.speech.accelerator_type", "speech"),
        ("encoders.speech.accelerator_type", "training with encoders"),
    ],
)
def test_kind_of_gpu_that_is_not_there_is_told_with_those_that_are(cluster: dict[str, float], setting: str, what: str) -> None:
    cluster |= WITH_ENCODERS | KINDS
    check(what, job(**{setting: "A100"}))
    with pytest.raises(ConfigError) as caught:
        check(what, job(**{setting: "H100"}))
    assert str(caught.value) == f"{setting} is H100, of which the cluster has none; it has A100, L40S"


def test_kind_of_gpu_in_a_cluster_without_any(cluster: dict[str, float]) -> None:
    cluster |= {"CPU": 100}
    with pytest.raises(ConfigError) as caught:
        check_training(job(training__accelerator_type="H100"), with_encoders=False)
    first, second = str(caught.value).splitlines()
    assert first == "training.accelerator_type is H100, of which the cluster has none; it has no GPUs"
    assert second.startswith("the job needs 2 GPUs (the cluster has 0): ")
