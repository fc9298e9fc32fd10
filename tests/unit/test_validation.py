"""Settings of validation videos: which scenes, which are refused, and what the cluster is asked for."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ray_s2v.cluster.capacity import check, for_training, with_place_of_videos
from ray_s2v.cluster.supply import Growth, Node, NodeType, Supply
from ray_s2v.config.job import Job
from ray_s2v.config.validation import Scene, Validation
from ray_s2v.job_file import dump_job, load_job
from ray_s2v.media.write import write_video
from ray_s2v.reporting.terminal import validation_line
from ray_s2v.schema import ConfigError
from ray_s2v.validation.scenes import with_scenes
from ray_s2v.validation.task import make_all
from ray_s2v.validation.video import for_one
from tests.jobs import SETTINGS, changed, load, mistakes

FACE = {"name": "face", "picture": "face.png", "speech": "voice.mp4", "prompt": "a face talks"}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A picture and a video with sound."""
    folder = tmp_path_factory.mktemp("scenes")
    Image.new("RGB", (64, 64), "red").save(folder / "face.png")
    sound = np.sin(np.arange(8000) / 20, dtype=np.float32)
    write_video(folder / "voice.mp4", [np.zeros((64, 64, 3), np.uint8)] * 8, 16, sound)
    return folder


def settings(**validation: Any) -> dict[str, Any]:
    return changed({"validation": {"every": 100, **validation}})


def job(**validation: Any) -> Job:
    return Job.model_validate(settings(**validation))


def test_none_unless_asked_for() -> None:
    assert Job.model_validate(SETTINGS).validation is None
    assert with_scenes(Job.model_validate(SETTINGS)) == Job.model_validate(SETTINGS)


def test_videos_are_due_every_so_many_steps_and_after_the_last() -> None:
    validation = Validation.model_validate({"every": 6, "scenes": [FACE]})
    assert [step for step in range(21) if validation.due(step, 20)] == [6, 12, 18, 20]


def test_prompts_take_what_the_section_says_unless_they_say_it_themselves() -> None:
    prompts = {"sad": "a sad face", "other": {"prompt": "another", "picture": "other.png", "seconds": 2}}
    validation = Validation.model_validate(
        {"every": 1, "scenes": [FACE], "prompts": prompts, "picture": "a.png", "speech": "a.wav", "seconds": 3}
    )
    assert validation.all_scenes() == [
        Scene(**FACE),
        Scene(name="sad", picture="a.png", speech="a.wav", prompt="a sad face", seconds=3),
        Scene(name="other", picture="other.png", speech="a.wav", prompt="another", seconds=2),
    ]


def test_all_mistakes_are_told(tmp_path: Path) -> None:
    wrong = settings(
        every=150,
        gpus=0,
        scenes=[FACE, FACE, FACE | {"name": "a/b"}, FACE | {"name": ".hidden"}, FACE | {"name": "x" * 201}],
        prompts={"sad": "a sad face"},
    )
    beyond = "is to be a file's: without /, no dot in front, at most 200 bytes"
    assert mistakes(tmp_path, wrong) == [
        "validation: 2 scenes are called 'face': give each a name of its own",
        f"validation: the scene's name 'a/b' {beyond}",
        f"validation: the scene's name '.hidden' {beyond}",
        f"validation: the scene's name '{'x' * 201}' {beyond}",
        "validation: prompts.sad: has no picture; give it one, or validation.picture for all",
        "validation: prompts.sad: has no speech; give it one, or validation.speech for all",
    ]
    assert mistakes(tmp_path, settings(scenes=[FACE | {"prompt": " "}])) == ["validation.scenes.0.prompt: must not be empty"]
    assert mistakes(tmp_path, settings()) == ["validation: of which scenes? give scenes, prompts or prompt_library"]
    assert mistakes(tmp_path, settings(scenes=[FACE | {"image": "a.png"}])) == [
        "validation.scenes.0.image: unknown; known here: name, picture, speech, prompt, seconds"
    ]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"validation.every": 160}, "validation.every 160 must be a multiple of checkpoint.every 50: videos are made from checkpoints"),
        (
            {"validation.gpus": 0, "model.attention": "flash"},
            "model.attention flash runs on GPUs, but validation.gpus is 0: give a share of one",
        ),
        (
            {"validation.gpus": 0, "model.base_precision": "fp8"},
            "model.base_precision fp8 runs on GPUs, but validation.gpus is 0: give a share of one",
        ),
    ],
)
def test_other_sections_must_agree(tmp_path: Path, changes: dict[str, Any], told: str) -> None:
    right = {"validation.every": 100, "validation.scenes": [FACE]}
    load(tmp_path, changed(right))
    assert mistakes(tmp_path, changed(right | changes)) == [told]


def test_scenes_are_found_and_saved_in_full(files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "library.json").write_text(json.dumps({"sad": "a sad face", "other": {"prompt": "another", "seconds": 0.5}}))
    monkeypatch.chdir(files)
    found = with_scenes(
        job(
            scenes=[FACE],
            prompts={"glad": "a glad face"},
            prompt_library=str(tmp_path / "library.json"),
            picture="face.png",
            speech="voice.mp4",
        )
    )
    assert found.validation
    scenes = found.validation.all_scenes()
    assert [(scene.name, scene.prompt, scene.seconds) for scene in scenes] == [
        ("face", "a face talks", None),
        ("glad", "a glad face", None),
        ("sad", "a sad face", None),
        ("other", "another", 0.5),
    ]
    assert {(scene.picture, scene.speech) for scene in scenes} == {(str(files / "face.png"), str(files / "voice.mp4"))}
    saved = tmp_path / "job.yaml"
    saved.write_text(dump_job(found))
    assert load_job(str(saved)) == found


def test_all_files_that_cannot_be_read_are_told(files: Path, tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("no picture")
    one = {"picture": str(files / "face.png"), "speech": str(tmp_path / "absent.wav"), "prompt": "a"}
    other = {"picture": str(tmp_path / "text.png"), "speech": str(files / "face.png"), "prompt": "a"}
    with pytest.raises(ConfigError) as caught:
        with_scenes(job(prompts={"one": one, "other": other}))
    told = str(caught.value).splitlines()
    assert [line.split(": ")[:2] for line in told] == [
        ["validation, scene one", f"speech {tmp_path / 'absent.wav'}"],
        ["validation, scene other", f"picture {tmp_path / 'text.png'}"],
        ["validation, scene other", f"speech {files / 'face.png'}"],
    ]


def test_all_mistakes_in_a_library_are_told(tmp_path: Path) -> None:
    library = tmp_path / "library.yaml"
    sad = {key: value for key, value in FACE.items() if key != "name"}
    given = job(scenes=[FACE], prompts={"sad": sad}, prompt_library=str(library))
    library.write_text("sad: again\nglad: {promt: a glad face}\n")
    with pytest.raises(ConfigError) as caught:
        with_scenes(given)
    assert str(caught.value).splitlines() == [
        f"{library}: 3 mistakes",
        "  validation.prompts.sad: is in the library too",
        "  validation.prompts.glad.prompt: missing",
        "  validation.prompts.glad.promt: unknown; did you mean prompt?",
    ]
    library.write_text("- a list")
    with pytest.raises(ConfigError, match="a prompt library is a mapping of nicknames to prompts"):
        with_scenes(given)


H100 = {"CPU": 8.0, "GPU": 2.0, "accelerator_type:H100": 1.0}
L40S = {"CPU": 8.0, "GPU": 1.0, "accelerator_type:L40S": 1.0}


def test_room_is_asked_for_and_what_to_do_is_told_where_there_is_none() -> None:
    """Two workers of a GPU each; encoders on CPUs."""
    two_gpus = Supply((Node("", H100),), Growth())
    with pytest.raises(ConfigError) as caught:
        check(for_training(job(scenes=[FACE]), with_encoders=True), two_gpus)
    first, what_to_do, *_ = str(caught.value).splitlines()
    assert first.startswith("the job needs 3 GPUs (the cluster has 2): ")
    assert "1 maker of videos wants 1 CPU and one GPU (validation.gpus)" in first
    assert what_to_do == ("All else has room: give validation.place=workers, or validation.gpus=0")
    check(for_training(job(scenes=[FACE], gpus=0), with_encoders=True), two_gpus)
    check(for_training(job(scenes=[FACE]), with_encoders=True), Supply((Node("", H100), Node("", L40S)), Growth()))
    check(for_training(job(scenes=[FACE]), with_encoders=True), Supply((Node("", H100),), Growth((NodeType("cheap", L40S, 1),), 1)))


def test_workers_make_the_videos_where_there_is_no_room_beside_them() -> None:
    two, three = (Supply((Node("", H100), *more), Growth()) for more in ((), (Node("", L40S),)))
    given = job(scenes=[FACE])
    assert given.validation.place == "auto"
    places = [with_place_of_videos(given, True, there).validation.place for there in (two, three)]
    assert places == ["workers", "beside"]
    check(for_training(with_place_of_videos(given, True, two), with_encoders=True), two)
    settled = job(scenes=[FACE], place="beside")
    assert with_place_of_videos(settled, True, two) is settled


def test_room_on_another_kind_of_gpu() -> None:
    asked = for_training(job(scenes=[FACE], accelerator_type="L40S"), with_encoders=True)
    check(asked, Supply((Node("", H100), Node("", L40S)), Growth()))
    with pytest.raises(ConfigError, match=r"validation\.accelerator_type is L40S, of which the cluster has none"):
        check(asked, Supply((Node("", H100), Node("", H100)), Growth()))


def test_videos_do_not_take_the_blame_where_nothing_has_room() -> None:
    with pytest.raises(ConfigError) as caught:
        check(for_training(job(scenes=[FACE]), with_encoders=True), Supply((Node("", L40S),), Growth()))
    assert "All else has room" not in str(caught.value)


def test_line_of_what_came_of_the_videos() -> None:
    videos = {"face": "validation/step_000006/face.mp4", "sad": "validation/step_000006/sad.mp4"}
    assert validation_line({"step": 6, "videos": videos, "failed": {}}) == (
        "videos after 6 steps: validation/step_000006/face.mp4, validation/step_000006/sad.mp4"
    )
    assert validation_line({"step": 6, "videos": {}, "failed": {"face": "the process that made it died"}}) == (
        "videos after 6 steps: none  face failed: the process that made it died"
    )


def test_what_keeps_all_videos_from_being_made_is_told_for_each_scene(files: Path, tmp_path: Path) -> None:
    one = {"picture": str(files / "face.png"), "speech": str(files / "voice.mp4"), "prompt": "a"}
    given = changed({"validation": {"every": 100, "gpus": 0, "prompts": {"one": one, "other": one}}, "encoders.vae.path": str(tmp_path)})
    told: list[str] = []
    failed = make_all(Job.model_validate(given), tmp_path, tmp_path, told.append, lambda *_: None)
    assert failed.keys() == {"one", "other"}
    assert all(reason.startswith(f"{tmp_path}: cannot load AutoencoderKLWan: ") for reason in failed.values())
    assert told == ["the network is being loaded"]


def test_process_beside_the_workers_shares_nothing_with_them() -> None:
    """The workers' settings of sharding, of routes and of what each may take are not its own."""
    theirs = {"training.gpu_memory_gib": 20, "training.worker_gpus": 0.6, "training.continuation": 0, "training.batch_size": 2}
    theirs |= {"zero.stage": 3, "tread.routes": [{"selection_ratio": 0.5, "start_layer_idx": 2, "end_layer_idx": -3}]}
    given = Job.model_validate(changed(theirs | {"validation": {"every": 100, "scenes": [FACE], "gpus": 0.4}}))
    own = for_one(given, 0.4)
    assert (own.training.worker_gpus, own.training.gpu_memory_gib, own.training.batch_size) == (0.4, None, 1)
    assert (own.zero.stage, own.tread.routes, own.training.continuation) == (2, [], 1)
    assert own.model == given.model
    assert own.offload == given.offload
