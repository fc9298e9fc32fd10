"""What a push makes public: the card as huggingface_hub reads it, settings that train, and nothing of the machine or the captions."""

import json
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pytest
from huggingface_hub import ModelCard
from PIL import Image
from pydantic import BaseModel

from ray_s2v.config.hub import Hub
from ray_s2v.config.job import Job
from ray_s2v.config.source import Source
from ray_s2v.job_file import dump_job, load_job
from ray_s2v.reporting.hub_folder import fill_folder
from ray_s2v.reporting.losses import Losses, losses_of, losses_picture
from ray_s2v.reporting.model_card import model_card
from ray_s2v.reporting.public_job import SOURCE, public_job
from ray_s2v.reporting.report.recorded import read_run
from tests.jobs import SHIPPED, changed, load

HUB = Hub(repo_id="someone/talking-lora")
NO_LOSSES = Losses({}, {})
PLANTED = "PRIVATE"
DEMO = next(path for path in SHIPPED if path.stem == "demo")
PUBLIC_WORDS = {"lora.targets", "sampling.size", "sampling.negative_prompt", "data.sources.resolution"}  # about training alone


def step(number: int, loss: float, *clips: str) -> dict[str, Any]:
    return {"step": number, "loss": loss, "clip_ids": list(clips), "step_s": 1.0}


def held_out(steps: int, loss: float, without: float | None = 0.25, other: float | None = 0.125) -> dict[str, Any]:
    return {"step": steps, "loss": loss, "worse_without_sound": without, "worse_with_other_sound": other, "clips": {"x": loss}}


LOSSES = Losses(
    {1: step(0, 3.0, "PRIVATE/a.mp4", "PRIVATE/b.mp4"), 2: step(1, 2.0, "PRIVATE/b.mp4", "PRIVATE/c.mp4")},
    {0: held_out(0, 3.19234), 2: held_out(2, 3.12401, 0.0186, -0.0012)},
)


def write_run(folder: Path) -> None:
    (folder / "adapter").mkdir(parents=True)
    (folder / "adapter/adapter_model.safetensors").write_bytes(b"tensors")
    (folder / "adapter/adapter_config.json").write_text("{}")
    lines = [step(0, 9.0, "a"), step(1, 8.0, "b"), step(1, 4.0, "b"), step(2, 3.0, "a")]  # the second step was done twice
    (folder / "steps.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"step": 3, "lo')
    (folder / "held_out.jsonl").write_text("".join(json.dumps(held_out(steps, 5.0 - steps)) + "\n" for steps in (0, 2, 3)))


def test_metadata_is_what_huggingface_hub_reads(tmp_path: Path) -> None:
    text = model_card(load(tmp_path, changed({})), HUB, NO_LOSSES, {}, None)
    assert ModelCard(text).data.to_dict() == {
        "base_model": "Wan-AI/Wan2.2-S2V-14B",
        "base_model_relation": "adapter",
        "library_name": "peft",
        "pipeline_tag": "image-to-video",
        "tags": ["lora", "wan", "wan2.2", "speech-to-video", "ray_s2v"],
    }


def test_prompt_and_license_are_shown_where_the_job_gives_them(tmp_path: Path) -> None:
    hub = Hub(repo_id=HUB.repo_id, prompt='zxq person: "speaks"\n---\n# calmly', license="apache-2.0")
    text = model_card(load(tmp_path, changed({})), hub, NO_LOSSES, {}, None)
    data = ModelCard(text).data
    assert (data["instance_prompt"], data.license) == (hub.prompt, "apache-2.0")
    assert '    zxq person: "speaks" --- # calmly\n' in text


def test_base_is_the_repository_that_the_job_names(tmp_path: Path) -> None:
    job = load(tmp_path, changed({"model.path": "someone/Wan-finetuned/transformer"}))
    text = model_card(job, HUB, NO_LOSSES, {}, None)
    assert ModelCard(text).data.base_model == "someone/Wan-finetuned"
    assert 'from_pretrained("someone/Wan-finetuned")' in text


def test_figures_of_the_run(tmp_path: Path) -> None:
    job = load(tmp_path, changed({"lora.rank": 8, "lora.alpha": 4, "training.learning_rate": 3e-5, "lora.layers": "blocks"}))
    card = model_card(job, HUB, LOSSES, {"a face": "validation/a face.mp4"}, 2)
    rows = dict(line.strip("| ").split(" | ") for line in card.splitlines() if line.startswith("| ") and line != "| | |")
    assert rows == {
        "clips": "3",
        "steps": "2 of 8 clips",
        "rank, alpha": "8, 4",
        "adapted layers": "to_q, to_k, to_v, to_out.0 of the blocks",
        "learning rate": "3e-05",
        "frozen weights": "bf16",
        "loss of held-out clips": "3.1923 after 0 steps, 3.1240 after 2",
        "what the sound is worth": "that loss is +0.0186 without the sound, -0.0012 with another's",
    }
    assert "Samples after 2 steps:\n\n- [a face](<validation/a face.mp4>)\n" in card
    assert "{" not in card.replace('{"', "")


def test_clips_without_sound_have_no_worth_of_it(tmp_path: Path) -> None:
    losses = Losses({}, {0: held_out(0, 1.0, None, None)})
    assert "what the sound is worth" not in model_card(load(tmp_path, changed({})), HUB, losses, {}, None)


def test_commands_name_the_repository_and_its_branch(tmp_path: Path) -> None:
    job = load(tmp_path, changed({}))
    text = model_card(job, HUB, NO_LOSSES, {}, None)
    assert "hf download someone/talking-lora --local-dir talking-lora\n" in text
    assert 'snapshot_download("someone/talking-lora"))' in text
    text = model_card(job, Hub(repo_id=HUB.repo_id, revision="tries"), NO_LOSSES, {}, None)
    assert "--local-dir talking-lora --revision tries\n" in text
    assert 'snapshot_download("someone/talking-lora", revision="tries"))' in text


def test_folder_holds_the_adapter_and_what_belongs_to_it(tmp_path: Path) -> None:
    run, folder = tmp_path / "run", tmp_path / "out"
    write_run(run)
    (folder / "validation").mkdir(parents=True)
    (folder / "validation/old.mp4").write_bytes(b"of an earlier push")
    fill_folder(folder, run, run / "adapter", load(tmp_path, changed({"lora.rank": 5})), HUB, None)
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert files == {"README.md", "job.yaml", "loss.png", "adapter_model.safetensors", "adapter_config.json"}
    assert (folder / "adapter_model.safetensors").read_bytes() == b"tensors"
    with Image.open(folder / "loss.png") as image:
        assert image.format == "PNG"
    assert ModelCard.load(folder / "README.md").data.library_name == "peft"
    assert load(tmp_path, (folder / "job.yaml").read_text()).lora.rank == 5


def test_losses_are_those_done_last_and_up_to_the_adapter(tmp_path: Path) -> None:
    write_run(tmp_path)
    run = read_run(tmp_path)
    losses = losses_of(run, None)
    assert {done: line["loss"] for done, line in losses.steps.items()} == {1: 9.0, 2: 4.0, 3: 3.0}
    assert list(losses.held_out) == [0, 2, 3]
    assert losses.num_clips == 2
    assert [list(part) for part in (losses_of(run, 2).steps, losses_of(run, 2).held_out)] == [[1, 2], [0, 2]]


def test_picture_has_every_step_and_every_held_out_loss() -> None:
    lines = {line.get_label(): line.get_xydata().tolist() for line in losses_picture(LOSSES).axes[0].lines}
    assert lines == {
        "each step": [[1, 3.0], [2, 2.0]],
        "median of 25 steps": [[1, 2.5], [2, 2.5]],
        "held-out clips": [[0, 3.19234], [2, 3.12401]],
    }
    assert [line.get_label() for line in losses_picture(NO_LOSSES).axes[0].lines] == ["each step", "median of 25 steps"]


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_public_settings_are_a_job_that_trains_alike(path: Path, tmp_path: Path) -> None:
    job = load_job(str(path))
    public = load(tmp_path, dump_job(public_job(job)))
    for section in ("lora", "tread", "flow", "dropout", "zero", "sampling"):
        assert getattr(public, section) == getattr(job, section)
    for name in ("learning_rate", "global_batch", "steps", "epochs", "continuation", "warmup_steps"):
        assert getattr(public.training, name) == getattr(job.training, name)
    assert public.run.seed == job.run.seed
    assert [(s.resolution, s.num_frames, s.is_eval) for s in public.data.sources] == [
        (s.resolution, s.num_frames, s.is_eval) for s in job.data.sources
    ]
    assert public_job(public) == public


def test_settings_that_are_new_are_looked_at() -> None:
    """A setting of a source is public, or is known to be of the machine, of its files or of captions."""
    private = {"path", "name", "caption", "instance_prompt", "pose_path", "auto_split", "audio_path", "sample_rate", "channels"}
    assert set(Source.model_fields) == SOURCE | private


def test_demo_stays_a_demo(tmp_path: Path) -> None:
    places = {"demo.folder": "", "model.path": "weights", "encoders.vae.path": "weights/vae"}
    job = load_job(str(DEMO), [f"{key}={tmp_path}/files/{place}" for key, place in places.items()])
    public = public_job(job)
    assert (public.model.path, public.encoders.vae.path) == ("demo-files/weights", "demo-files/weights/vae")
    assert public.demo
    assert (public.demo.folder, public.demo.seed) == ("demo-files", 0)
    card = model_card(job, HUB, NO_LOSSES, {}, None)
    assert ModelCard(card).data.base_model is None
    assert "toy weights" in card


def takes_text(annotation: Any) -> bool:
    """Whether a setting takes any words, not one of a few."""
    return annotation is str or (get_origin(annotation) is not Literal and any(map(takes_text, get_args(annotation))))


def planted(section: Any, place: str = "") -> Any:
    """The settings with words to look for wherever any may stand."""
    words: dict[str, Any] = {}
    for name, field in type(section).model_fields.items():
        value, at = getattr(section, name), f"{place}{name}"
        if isinstance(value, BaseModel):
            words[name] = planted(value, f"{at}.")
        elif isinstance(value, list) and value and isinstance(value[0], BaseModel):
            words[name] = [planted(item, f"{at}.") for item in value]
        elif takes_text(field.annotation) and at not in PUBLIC_WORDS:
            words[name] = f"/{PLANTED}/{at}"
    return section.model_copy(update=words)


def test_words_of_the_job_stay_private(tmp_path: Path) -> None:
    run, folder = tmp_path / "run", tmp_path / "out"
    write_run(run)
    sources = [{"path": "clips", "caption": "fixed", "instance_prompt": "a"}, {"path": "b", "is_eval": True}]
    job = planted(load(tmp_path, changed({"data.sources": sources})))
    assert dump_job(job).count(PLANTED) > 20
    fill_folder(folder, run, run / "adapter", job, HUB, None)
    for name in ("README.md", "job.yaml"):
        assert PLANTED not in (folder / name).read_text()
    load(tmp_path, (folder / "job.yaml").read_text())


def test_clips_are_not_named() -> None:
    job = Job.model_validate(changed({}))
    assert PLANTED not in model_card(job, HUB, LOSSES, {}, None)
