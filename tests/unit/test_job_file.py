"""Jobs are read whole or refused with every mistake named; nothing that a person can type gives a traceback."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ray_s2v.config.hub import Hub
from ray_s2v.config.job import Encoder, Job, Pool
from ray_s2v.config.section import Section
from ray_s2v.config.source import Source
from ray_s2v.config.tracking import Webhook, WeightsAndBiases
from ray_s2v.config.validation import Scene, Validation
from ray_s2v.job_file import dump_job, load_job
from ray_s2v.schema import ConfigError
from tests.jobs import SETTINGS, SHIPPED, changed, load, mistakes

FUZZ = settings(
    deadline=None, database=None, derandomize=True, max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.fixture
def path(tmp_path: Path) -> str:
    file = tmp_path / "job.yaml"
    file.write_text(yaml.safe_dump(SETTINGS))
    return str(file)


def test_every_mistake_is_told_at_once(tmp_path: Path) -> None:
    wrong = changed(
        {
            "run.seed": -1,
            "run.foldr": "x",
            "data.sources.0.num_frames": 81,
            "data.sources.1.resolution": "big",
            "data.max_rejected": 2,
            "encoders.text.tokenizer": ...,
            "model.base_precision": "nf4",
            "lora.layers": "some",
            "training.steps": 0,
            "zero": {"stage": 4},
            "optimiser": {"name": "adam"},
        }
    )
    lines = mistakes(tmp_path, wrong, ("checkpoint.keep=0", "no override", "training.workers.x=1"))
    places = [
        "run.seed",
        "run.foldr",
        "data.sources.0.num_frames",
        "data.sources.1",
        "data.max_rejected",
        "encoders.text.tokenizer",
        "model.base_precision",
        "lora.layers",
        "training.steps",
        "zero.stage",
        "optimiser",
        "checkpoint.keep",
        "'no override'",
        "training.workers.x",
    ]
    assert sorted(line.split(": ")[0] for line in lines) == sorted(places)


@pytest.mark.parametrize(
    ("key", "hint"),
    [
        ("trainin", "training"),
        ("run.sed", "seed"),
        ("demo.foldr", "folder"),
        ("data.source", "sources"),
        ("data.feature", "features"),
        ("data.sources.0.weigth", "weight"),
        ("data.sources.0.repeat", "repeats"),
        ("data.sources.0.zero_audio", "allow_zero_audio"),
        ("data.sources.1.eval", "is_eval"),
        ("data.sources.1.num_frame", "num_frames"),
        ("encoders.vea", "vae"),
        ("encoders.text.tokeniser", "tokenizer"),
        ("encoders.speech.gpu", "gpus"),
        ("encoders.vae.actors.mn", "min"),
        ("model.checkpoint", "checkpointing"),
        ("lora.ranks", "rank"),
        ("training.learning_rates", "learning_rate"),
        ("zero.stages", "stage"),
        ("checkpoint.resum", "resume"),
    ],
)
def test_did_you_mean_at_every_level(tmp_path: Path, key: str, hint: str) -> None:
    lines = mistakes(tmp_path, changed({key: 1}))
    assert f"{key}: unknown; did you mean {hint}?" in lines


ENCODERS = ("vae", "speech", "text")


@pytest.mark.parametrize(
    ("key", "hint"),
    [
        ("data.num_frames", "there is data.sources.0.num_frames and sampling.num_frames"),
        ("data.sources.0.max_rejected", "there is data.max_rejected"),
        ("learning_rate", "there is training.learning_rate"),
        ("training.seed", "there is run.seed and demo.seed and sampling.seed"),
        ("checkpoint.max", f"there is {' and '.join(f'encoders.{name}.actors.max' for name in ENCODERS)} and training.workers.max"),
        ("data.sources.0.minimum_image_size", "here it is min_size"),
        ("data.sources.0.instance_data_dir", "here it is path"),
        ("training.max_train_steps", "here it is training.steps"),
        ("pose", "here it is pose_path of a source; zeros without"),
    ],
)
def test_key_that_belongs_elsewhere_or_is_called_otherwise(tmp_path: Path, key: str, hint: str) -> None:
    assert mistakes(tmp_path, changed({key: 1})) == [f"{key}: unknown; {hint}"]


@pytest.mark.parametrize("value", [{"qqq": {}}, [[]], "qqq", -1], ids=str)
@pytest.mark.parametrize(
    "section", ["run", "demo", "data", "encoders", "encoders.vae", "model", "lora", "flow", "dropout", "training", "zero"]
)
def test_section_that_is_none_is_told_where_it_stands(tmp_path: Path, section: str, value: Any) -> None:
    lines = mistakes(tmp_path, changed({section: value}))
    if isinstance(value, dict):
        assert any(line.startswith(f"{section}.qqq: unknown; ") for line in lines)
    else:
        was = "" if isinstance(value, list) else f" (it is {value!r})"
        assert lines == [f"{section}: must be a section with settings of its own{was}"]


def test_unknown_key_that_is_like_none_is_answered_with_those_there_are(tmp_path: Path) -> None:
    assert mistakes(tmp_path, changed({"zero.qqq": 1, "flow.qqq": 1})) == [
        "flow.qqq: unknown; known here: shift",
        "zero.qqq: unknown; known here: stage, offload, hpz",
    ]


@pytest.mark.parametrize("key", ["accumulation", "gradient_accumulation_steps"])
def test_accumulation_is_explained(tmp_path: Path, key: str) -> None:
    (line,) = mistakes(tmp_path, changed({f"training.{key}": 4}))
    assert line == f"training.{key}: unknown; follows from global_batch / (workers * batch_size)"


def test_key_that_is_no_text_is_a_mistake(tmp_path: Path) -> None:
    (line,) = mistakes(tmp_path, yaml.safe_dump(SETTINGS) + "3: x\n")
    assert line.startswith("3: ")


@pytest.mark.parametrize(
    ("override", "key", "value"),
    [
        ("run.seed=7", "run.seed", 7),
        ("training.learning_rate=1e-3", "training.learning_rate", 1e-3),
        ("training.learning_rate=1.0e-3", "training.learning_rate", 1e-3),
        ("data.sources.1.path=a=b", "data.sources.1.path", "a=b"),
        ("data.sources.0.num_frames=48", "data.sources.0.num_frames", 48),
        ("data.sources.0={path: x, resolution: 64x64}", "data.sources.0", {"path": "x", "resolution": "64x64"}),
        ("data.sources=[{path: x}]", "data.sources", [{"path": "x"}]),
        ("lora.targets=[to_q, to_k]", "lora.targets", ["to_q", "to_k"]),
        ("lora.rank=8", "lora.rank", 8),
        ("demo.folder=runs/demo", "demo", {"folder": "runs/demo"}),
        ("encoders.text.gpus=0.5", "encoders.text.gpus", 0.5),
        ("encoders.text.actors=3", "encoders.text.actors", 3),
        ("encoders.text.actors.max=3", "encoders.text.actors", {"max": 3}),
        ("data.features=store", "data.features", "store"),
        ("data.sources.0.is_eval=true", "data.sources.0.is_eval", True),
        ("data.sources.0.weight=null", "data.sources.0.weight", None),
        ("run.folder='12'", "run.folder", "12"),
        ("lora.alpha=null", "lora.alpha", None),
    ],
)
def test_override_is_the_same_as_writing_it(tmp_path: Path, path: str, override: str, key: str, value: Any) -> None:
    assert load_job(path, [override]) == load(tmp_path, changed({key: value}))


def test_later_override_wins_and_demo_can_be_taken_out(path: str) -> None:
    assert load_job(path, ["run.seed=1", "run.seed=2"]).run.seed == 2
    assert load_job(path, ["demo.folder=x", "demo=null"]).demo is None
    swapped = load_job(path, ["training.steps=null", "training.epochs=3"]).training
    assert (swapped.steps, swapped.epochs) == (None, 3)


@pytest.mark.parametrize(
    ("override", "mistake"),
    [
        ("run.seed", "'run.seed': an override reads section.key=value"),
        ("", "'': an override reads section.key=value"),
        ("=3", "'=3': an override reads section.key=value"),
        ("run..seed=3", "'run..seed=3': an override reads section.key=value"),
        (".seed=3", "'.seed=3': an override reads section.key=value"),
        ("run.seed=[1", "'run.seed=[1': the value is no readable YAML"),
        ("run.folder={a: 1, a: 2}", "'run.folder={a: 1, a: 2}': the value is no readable YAML"),
        ("run.folder.x=3", "run.folder.x: x stands below a value, not a section"),
        ("model.path.x.y=3", "model.path.x.y: x stands below a value, not a section"),
        ("data.sources.2.path=x", "data.sources.2.path: there is no item 2; items 0 to 1 are there"),
        ("data.sources.-1.path=x", "data.sources.-1.path: there is no item -1; items 0 to 1 are there"),
        ("data.sources.first.path=x", "data.sources.first.path: there is no item first; items 0 to 1 are there"),
        ("run.sed=3", "run.sed: unknown; did you mean seed?"),
        ("model.path.name=x", "model.path.name: name stands below a value, not a section"),
    ],
)
def test_override_that_cannot_be_followed_is_named(tmp_path: Path, override: str, mistake: str) -> None:
    assert mistakes(tmp_path, SETTINGS, (override,)) == [mistake]


@pytest.mark.parametrize("item", ["2", "7", "first"])
def test_override_of_an_item_that_is_not_there(tmp_path: Path, item: str) -> None:
    (line,) = mistakes(tmp_path, SETTINGS, (f"data.sources.{item}={{path: x}}",))
    assert line.startswith(f"data.sources.{item}: ")


@pytest.mark.parametrize(
    "override",
    [
        "data.sources.².path=x",  # a digit to str.isdigit, no number to int
        f"data.sources.{'9' * 5000}.path=x",
        "data.sources.²=x",
        "run.folder=2001-99-99",
        "run.seed=0x_",
        "run.seed=0b_",
        "run.seed=!!int x",
        "run.seed=!!int ''",
        "run.seed=!!float x",
        "run.seed=!!bool x",
        "run.seed=!!timestamp x",
        "run.seed=!!set [a]",
        "run=!!map [a]",
        f"run.seed={'9' * 5000}",
        f"run.seed={'[' * 3000}",
        "run=&a {x: *a}",
        "data.sources=&a [*a]",
    ],
    ids=lambda override: override[:24],
)
def test_odd_override_is_a_mistake_and_no_crash(path: str, override: str) -> None:
    with pytest.raises(ConfigError):
        load_job(path, [override])


def test_override_of_one_section_leaves_another_that_was_an_alias_of_it(tmp_path: Path) -> None:
    text = yaml.safe_dump(changed({"encoders.vae": ..., "encoders.speech": ...}))
    text = text.replace("encoders:\n", "encoders:\n  vae: &shared {path: all, cpus: 1}\n  speech: *shared\n")
    job = load(tmp_path, text, ("encoders.vae.cpus=7",))
    assert (job.encoders.vae.cpus, job.encoders.speech.cpus) == (7, 1)


def test_merge_keys_of_yaml(tmp_path: Path) -> None:
    text = yaml.safe_dump(changed({"encoders.vae": ..., "encoders.speech": ...}))
    text = text.replace("encoders:\n", "encoders:\n  vae: &shared {path: all, cpus: 3}\n  speech: {<<: *shared, path: own}\n")
    speech = load(tmp_path, text).encoders.speech
    assert (speech.path, speech.cpus) == ("own", 3)


@pytest.mark.parametrize(
    ("text", "twice"),
    [
        ("run: {folder: a}\nrun: {folder: b}\n", "run"),
        ("run: {folder: a, seed: 1, seed: 1}\n", "seed"),
        ("data:\n  sources:\n    - path: a\n      num_frames: 80\n      path: b\n", "path"),
    ],
)
def test_key_given_twice_is_refused_by_name(tmp_path: Path, text: str, twice: str) -> None:
    with pytest.raises(ConfigError, match=rf"(?s)written\.yaml: .*given twice: {twice}.*line \d"):
        load(tmp_path, text)


@pytest.mark.parametrize(
    "content",
    [
        b"run: [1\n",
        b"run: {folder: a\n",
        b"\trun: 1\n",
        b"a: b: c\n",
        b"run: \x00\n",
        b"run: caf\xe9\n",
        b"run: *nothing\n",
        b"--- 1\n--- 2\n",
    ],
)
def test_what_is_no_yaml_is_refused_with_the_file(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(ConfigError, match=r"written\.yaml: no readable YAML"):
        load(tmp_path, content)


@pytest.mark.parametrize("content", ["", "# nothing\n", "[]", "- run\n", "run", "3", "null", "true"])
def test_what_is_no_mapping_is_told_what_a_job_is(tmp_path: Path, content: str) -> None:
    with pytest.raises(ConfigError, match=r"written\.yaml: a job is a mapping of sections: run, demo, data, "):
        load(tmp_path, content)


def test_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"absent\.yaml: No such file"):
        load_job(str(tmp_path / "absent.yaml"))
    with pytest.raises(ConfigError, match="must be a file"):
        load_job(str(tmp_path))


def test_dumped_job_has_every_default_and_loads_to_the_same(tmp_path: Path, path: str) -> None:
    job = load_job(path, ["demo.folder=runs/größer 顔", "lora.alpha=0.5", "training.learning_rate=1e-5"])
    text = dump_job(job)
    assert load(tmp_path, text) == job
    assert yaml.safe_load(text) == job.model_dump(mode="json")
    assert yaml.safe_load(text)["training"]["weight_decay"] == 0.01
    for file in SHIPPED:
        assert load(tmp_path, dump_job(load_job(str(file)))) == load_job(str(file))


EVERY_OPTION: list[dict[str, Any]] = [
    {
        "path": "s3://bucket/größer 顔/*",
        "name": "yes",  # text that YAML would take for something else
        "caption": "fixed",
        "instance_prompt": "12",
        "repeats": 3,
        "weight": 0.1,
        "resolution": 0.4,
        "resolution_type": "area",
        "aspect_rounding": 0,
        "min_size": 0.2,
        "max_size": 2.5,
        "downsample_to": 1.0,
        "crop": "random",
        "aspect": "random",
        "aspects": [0.75, 1.0, 1.3333333333333333],
        "num_frames": 48,
        "min_frames": 17,
        "max_frames": 1000,
        "bucket_strategy": "resolution_frames",
        "frame_interval": 16,
        "window": "random",
        "windows_per_clip": 4,
        "pose_path": "poses",
        "auto_split": False,
        "audio_path": "~/sounds",
        "allow_zero_audio": True,
        "sample_rate": 16_000,
        "channels": 1,
        "max_duration_seconds": 29.97,
        "duration_interval": 0.25,
        "truncation_mode": "random",
    },
    {"path": "faces", "is_eval": True, "resolution": 480, "resolution_type": "pixel", "auto_split": True},
]


def test_every_option_of_a_source_survives_the_dump(tmp_path: Path) -> None:
    assert set().union(*EVERY_OPTION) == set(Source.model_fields)
    job = load(tmp_path, changed({"data.sources": EVERY_OPTION, "encoders.vae.actors": {"min": 2, "max": 5}}))
    for written, source in zip(EVERY_OPTION, job.data.sources, strict=True):
        assert {name: getattr(source, name) for name in written} == written
    assert load(tmp_path, dump_job(job)) == job
    assert yaml.safe_load(dump_job(job))["data"]["sources"][0] == EVERY_OPTION[0] | {"is_eval": False}


@pytest.mark.parametrize("separator", ["\n", "\u2028", "\u2029"])
def test_line_separators_survive_the_dump(tmp_path: Path, separator: str) -> None:
    job = Job.model_validate(changed({"run.folder": f"a{separator}b", "lora": {"targets": [separator]}}))
    assert load(tmp_path, dump_job(job)) == job


def job_or_message(path: str, overrides: list[str]) -> Job | str:
    try:
        return load_job(path, overrides)
    except ConfigError as error:
        return str(error)


WORDS = st.text(st.characters(exclude_categories=["Cs", "Zl", "Zp"], exclude_characters="\x85\0"), min_size=1, max_size=30)


@FUZZ
@given(folder=WORDS, path=WORDS, target=WORDS, rate=st.floats(min_value=1e-300, max_value=1e300), seed=st.integers(0, 2**63 - 1))
def test_every_job_survives_its_dump(tmp_path: Path, folder: str, path: str, target: str, rate: float, seed: int) -> None:
    changes = {"run": {"folder": folder, "seed": seed}, "model.path": path, "lora": {"targets": [target]}, "training.learning_rate": rate}
    job = Job.model_validate(changed(changes))
    assert load(tmp_path, dump_job(job)) == job


SECTIONS = [Job, *(type(section) for _, section in Job.model_validate(SETTINGS) if isinstance(section, Section))]
SECTIONS += [Source, Encoder, Pool, Validation, Scene, Webhook, WeightsAndBiases, Hub]
KEYS = st.sampled_from(sorted({name for section in SECTIONS for name in section.model_fields} | {"path", "vae", "0", "1", "2", "-1", "x"}))
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.dates() | KEYS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS | st.integers() | st.none(), inner, max_size=4),
    max_leaves=12,
)
TEXTS = (
    st.text(max_size=20) | VALUES.map(yaml.safe_dump) | st.text(st.sampled_from("0123456789abx-+_.:~!&*<>{}[]'\"? \n|%@`,e="), max_size=12)
)


@FUZZ
@given(
    st.lists(
        st.text(max_size=20) | st.tuples(st.lists(KEYS | st.text(max_size=3), min_size=1, max_size=4).map(".".join), TEXTS).map("=".join),
        max_size=3,
    )
)
def test_any_overrides_give_a_job_or_a_config_error(path: str, overrides: list[str]) -> None:
    result = job_or_message(path, overrides)
    assert isinstance(result, Job) or path in result


@FUZZ
@given(TEXTS | st.dictionaries(KEYS, VALUES, max_size=5).map(yaml.safe_dump) | VALUES.map(lambda v: yaml.safe_dump(SETTINGS | {"run": v})))
def test_any_document_gives_a_job_or_a_config_error(tmp_path: Path, document: str) -> None:
    file = tmp_path / "any.yaml"
    file.write_bytes(document.encode())
    result = job_or_message(str(file), [])
    assert isinstance(result, Job) or str(file) in result


@pytest.mark.parametrize("value", ["2001-99-99", "0x_", "!!int x", "!!bool x", "!!set [a]", "[" * 3000], ids=lambda value: value[:12])
def test_odd_document_is_a_mistake_and_no_crash(tmp_path: Path, value: str) -> None:
    with pytest.raises(ConfigError, match=r"written\.yaml"):
        load(tmp_path, f"run: {{folder: {value}}}\n")


def test_odd_name_of_a_file_is_a_mistake_and_no_crash() -> None:
    with pytest.raises(ConfigError):
        load_job("job\0.yaml")


def test_reading_a_job_imports_neither_torch_nor_ray() -> None:
    code = (
        "import sys; import ray_s2v.config, ray_s2v.command, ray_s2v.train, ray_s2v.check; "
        "print(sorted({'torch', 'ray', 'ray_s2v.config', 'numpy'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "['ray_s2v.config']"
