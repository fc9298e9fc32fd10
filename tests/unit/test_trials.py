"""Which trial is the best, the table and the CSV of all, and the best one's job."""

import csv
import io
from pathlib import Path
from typing import Any

import pytest
import yaml

from ray_s2v.config.job import Job
from ray_s2v.config.sweep import Sweep
from ray_s2v.job_file import load_job
from ray_s2v.reporting.best_job import best_job
from ray_s2v.reporting.trials import State, TrialRecord, best_of, ranked, short_names, shown_value, sweep_csv, trials_table
from ray_s2v.sweep_file import trial_job
from tests.jobs import SETTINGS, changed

RATE, RATIO = "training.learning_rate", "tread.routes.0.selection_ratio"


def trial(
    name: str, *points: tuple[int, float], state: State = "done", values: dict[str, Any] | None = None, error: str = ""
) -> TrialRecord:
    return TrialRecord(name, values or {RATE: 0.001}, state, list(points), error, f"runs/s/trials/{name}")


STARTED = trial("started", state="running")
SHORT = trial("short", (0, 2.0), (4, 0.5), state="stopped early")
LOW = trial("low", (0, 2.0), (4, 0.4), (8, 1.0))
HIGH = trial("high", (0, 2.0), (4, 1.1), (8, 1.2))
BROKEN = trial("broken", (0, 2.0), (8, 0.1), state="failed", error="worker 1:\n out of memory")


def test_best_is_the_lowest_last_loss_of_those_that_came_furthest_and_did_not_fail() -> None:
    assert best_of([STARTED, SHORT, HIGH, LOW, BROKEN]) is LOW
    assert best_of([STARTED, SHORT, HIGH, BROKEN]) is HIGH
    assert best_of([STARTED, SHORT, BROKEN]) is SHORT
    assert best_of([STARTED, BROKEN]) is None
    assert best_of([]) is None


def test_order_of_trials() -> None:
    assert ranked([STARTED, SHORT, BROKEN, HIGH, LOW]) == [LOW, HIGH, SHORT, STARTED, BROKEN]


@pytest.mark.parametrize(
    ("keys", "names"),
    [
        ([RATE, RATIO], ["learning_rate", "selection_ratio"]),
        (["data.sources.0.weight", "data.sources.1.weight"], ["sources.0.weight", "sources.1.weight"]),
        (["lora.dropout", "dropout"], ["lora.dropout", "dropout"]),
        (["dropout.text", "dropout.audio", "lora.rank"], ["text", "audio", "rank"]),
        (["encoders.vae.cpus", "encoders.text.cpus", "training.worker_cpus"], ["vae.cpus", "text.cpus", "worker_cpus"]),
        (["a.b", "x.a.b"], ["a.b", "x.a.b"]),
        (["lora"], ["lora"]),
    ],
)
def test_short_names_tell_settings_apart(keys: list[str], names: list[str]) -> None:
    assert list(short_names(keys).values()) == names
    assert len(set(names)) == len(names)


def test_table() -> None:
    records = [STARTED, BROKEN, trial("two", (8, 1.25), values={RATE: 0.003, "lora.targets": ["to_q"]}), SHORT, LOW]
    assert trials_table(records).splitlines() == [
        "5 trials: 2 done, 1 stopped early, 1 failed, 1 running; loss: of the held-out clips, after so many steps",
        "  trial    learning_rate   targets  steps     loss  state",
        "* low              0.001                8  1.00000  done, the best",
        '  two              0.003  ["to_q"]      8  1.25000  done',
        "  short            0.001                4  0.50000  stopped early",
        "  started          0.001                            running",
        "  broken           0.001                8  0.10000  failed",
        "  broken failed: worker 1: out of memory",
    ]


def test_table_of_no_trials() -> None:
    assert trials_table([]).splitlines()[0].startswith("0 trials: ")


def test_table_of_many_trials_and_settings_is_no_wider_than_a_terminal() -> None:
    values = {f"training.a_setting_with_a_long_name_{number}": "x" * 50 for number in range(9)} | {"lora.rank": "a\nb"}
    records = [trial(f"trial_{'long' * 20}_{number:03d}", (4, float(number)), values=values, error="e" * 300) for number in range(60)]
    lines = trials_table(records).splitlines()
    assert max(map(len, lines)) <= 120
    assert "  and 10 more, in sweep.csv" in lines
    (hidden,) = [line for line in lines if line.startswith("  not shown, but in sweep.csv: training.a_setting_with_a_long_name_")]
    shown = lines[1].count("a_setting")
    assert 1 <= shown < 9
    assert f"long_name_{shown}" in hidden


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0003, "0.0003"),
        (3e-5, "3e-05"),
        (1 / 3, "0.3333"),
        (12, "12"),
        (True, "true"),
        (None, "null"),
        ("all", "all"),
        (["to_q", "to_k"], '["to_q", "to_k"]'),
        ("a\nb", "'a\\nb'"),
        ("x" * 30, "x" * 17 + "..."),
    ],
)
def test_values_in_few_characters(value: Any, text: str) -> None:
    assert shown_value(value) == text


def test_csv_reads_back_exactly() -> None:
    odd = trial(
        "odd", (0, 2.0), (4, 1 / 3), (8, 1.5), values={RATE: 0.1 + 0.2, "lora.targets": ["to_q", 'a "b"'], "c": 'x,"y"\nz', "d": None}
    )
    text = sweep_csv([BROKEN, odd, STARTED])
    assert text.count("\r\n") == 4
    rows = list(csv.DictReader(io.StringIO(text, newline="")))
    assert [row["trial"] for row in rows] == ["odd", "started", "broken"]
    first = rows[0]
    assert (first["best"], first["state"], first["steps"], float(first["loss"])) == ("yes", "done", "8", 1.5)
    assert float(first["lowest_loss"]) == 1 / 3
    assert float(first[RATE]) == 0.1 + 0.2
    assert yaml.safe_load(first["lora.targets"]) == ["to_q", 'a "b"']
    assert (first["c"], first["d"], first["folder"]) == ('x,"y"\nz', "null", "runs/s/trials/odd")
    assert (rows[1]["steps"], rows[1]["loss"], rows[1]["c"], rows[1]["best"]) == ("", "", "", "")
    assert rows[2]["error"] == BROKEN.error


@pytest.fixture
def sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sweep:
    """Of a job whose places are relative to a folder that holds them."""
    for name in ("weights/vae", "weights/text", "weights/network"):
        (tmp_path / name).mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    sources = [{"path": "clips", "audio_path": "voices", "pose_path": "s3://bucket/poses"}, {"path": "kept", "is_eval": True}]
    job = changed(
        {
            "data": {"sources": sources},
            "demo": {"folder": "made"},
            "encoders.vae.path": "weights/vae",
            "encoders.speech.path": "owner/repository/wav2vec2",
            "encoders.text": {"path": "weights/text", "tokenizer": "weights/text"},
            "model.path": "weights/network",
            "offload": {"disk_path": "disk"},
            "checkpoint": {"resume": "other/checkpoints/step_000100"},
        }
    )
    settings = {"folder": "runs/s", "job": job, "space": {RATE: {"values": [1e-3, 3e-3]}}, "search": "grid", "set": {"lora.alpha": 2}}
    return Sweep.model_validate(settings)


def test_best_job_is_the_trials_with_absolute_places(sweep: Sweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = best_job(sweep, "jobs/sweep.yaml", trial("low", (0, 2.0), (8, 1.0), values={RATE: 3e-3}), "runs/s/best", "runs/s/store")
    before, here = trial_job(sweep, {RATE: 3e-3}), str(tmp_path)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    Path("best.yaml").write_text(text, encoding="utf-8")
    job = load_job("best.yaml")
    assert (job.run.folder, job.data.store, job.training) == (f"{here}/runs/s/best", f"{here}/runs/s/store", before.training)
    assert (job.training.learning_rate, job.lora.alpha) == (3e-3, 2)
    first, second = job.data.sources
    assert (first.path, first.audio_path, first.pose_path) == (f"{here}/clips", f"{here}/voices", "s3://bucket/poses")
    assert (second.path, second.is_eval) == (f"{here}/kept", True)
    assert (job.encoders.vae.path, job.encoders.speech.path) == (f"{here}/weights/vae", "owner/repository/wav2vec2")
    assert (job.encoders.text.path, job.encoders.text.tokenizer) == (f"{here}/weights/text", f"{here}/weights/text")
    assert (job.model.path, job.offload.disk_path) == (f"{here}/weights/network", f"{here}/disk")
    assert job.demo
    assert (job.demo.folder, job.checkpoint.resume) == (f"{here}/made", f"{here}/other/checkpoints/step_000100")


def test_best_job_says_where_it_is_from(sweep: Sweep) -> None:
    settings = sweep.model_dump() | {"search": "random", "trials": 4, "pbt": {"every_steps": 100}}
    low = trial("low", (0, 2.0), (8, 1.25), values={RATE: 3e-3})
    for one, more in ((sweep, []), (Sweep.model_validate(settings), ["# These are its last values: pbt has changed them on the way."])):
        lines = best_job(one, "jobs/sweep.yaml", low, "runs/s/best", "/store").splitlines()
        assert [line for line in lines if line.startswith("#")] == [
            "# The best trial of jobs/sweep.yaml: low",
            "# training.learning_rate=0.003",
            *more,
            "# Loss of the held-out clips after 8 steps: 1.25",
            "# Its run: runs/s/trials/low",
        ]


def test_best_job_of_a_job_that_says_little() -> None:
    settings: dict[str, Any] = {name: section for name, section in SETTINGS.items() if name != "encoders"}
    hub = {"path": "owner/repository", "tokenizer": "owner/repository/tokenizer"}
    encoders = {"vae": {"path": "owner/repository/vae"}, "speech": {"path": "owner/repository"}, "text": hub}
    job = settings | {"encoders": encoders, "model": {"path": "owner/model"}}
    one = Sweep.model_validate({"folder": "s", "job": job, "space": {RATE: {"values": [1]}}, "search": "grid"})
    text = best_job(one, "s.yaml", trial("low", (8, 1.0), values={RATE: 1}), "/best", "s3://bucket/store")
    written = Job.model_validate(yaml.safe_load(text))
    assert (written.run.folder, written.data.store, written.model.path) == ("/best", "s3://bucket/store", "owner/model")
    assert (written.demo, written.checkpoint.resume, written.encoders.text.tokenizer) == (None, "latest", "owner/repository/tokenizer")
