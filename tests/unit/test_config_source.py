"""What a source of clips takes and refuses, with the words in which it is told."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from ray_s2v.config.source import Source
from tests.jobs import changed, load, mistakes


def source(folder: Path, **options: Any) -> Source:
    """The source as a job file of these options gives it."""
    return load(folder, changed({"data.sources": [{"path": "clips"} | options]})).data.sources[0]


def refusals(folder: Path, **options: Any) -> list[str]:
    """What is told about the options, without the number of the source."""
    lines = mistakes(folder, changed({"data.sources": [{"path": "clips"} | options]}))
    assert all(line.startswith("data.sources.0") for line in lines)
    return [line.removeprefix("data.sources.0").lstrip(".: ") for line in lines]


DEFAULTS = {
    "name": "",
    "caption": None,
    "instance_prompt": None,
    "repeats": 0,
    "weight": None,
    "is_eval": False,
    "resolution": "832x480",
    "resolution_type": "exact",
    "aspect_rounding": 2,
    "min_size": None,
    "max_size": None,
    "downsample_to": None,
    "crop": "center",
    "aspect": "preserve",
    "aspects": None,
    "num_frames": 80,
    "min_frames": None,
    "max_frames": None,
    "bucket_strategy": "aspect_ratio",
    "frame_interval": None,
    "window": "random",
    "windows_per_clip": None,
    "pose_path": None,
    "auto_split": None,
    "audio_path": None,
    "allow_zero_audio": False,
    "sample_rate": 16_000,
    "channels": 1,
    "max_duration_seconds": None,
    "duration_interval": 3.0,
    "truncation_mode": "beginning",
}


def test_defaults_are_the_documented_ones(tmp_path: Path) -> None:
    plain = source(tmp_path)
    assert plain.model_dump() == {"path": "clips"} | DEFAULTS
    assert plain.exact_size() == (832, 480)
    assert plain.least_frames() == 80
    assert plain.takes_own_sound()


@pytest.mark.parametrize("option", ["is_eval", "auto_split", "allow_zero_audio"])
@pytest.mark.parametrize("value", [0, 1, "yes", "true", 1.0, [True]])
def test_switch_takes_only_true_and_false(tmp_path: Path, option: str, value: Any) -> None:
    (line,) = refusals(tmp_path, **{option: value})
    assert line.startswith(f"{option}: must be true or false")


@pytest.mark.parametrize("option", sorted({"path", *DEFAULTS} - {"is_eval", "auto_split", "allow_zero_audio"}))
@pytest.mark.parametrize("value", [True, False])
def test_nothing_else_takes_true_or_false(tmp_path: Path, option: str, value: Any) -> None:
    (line,) = refusals(tmp_path, **{option: value})
    assert line.startswith(f"{option}: true and false (yes and no) are no value of this setting")


def test_no_list_takes_true_or_false(tmp_path: Path) -> None:
    message = "aspects: true and false (yes and no) are no value of this setting"
    assert refusals(tmp_path, resolution=640, resolution_type="pixel_area", aspect="random", aspects=[1.0, True]) == [message]


@pytest.mark.parametrize("option", ["path", *DEFAULTS])
@pytest.mark.parametrize("value", [{"a": {}}, [[]]], ids=str)
def test_value_of_no_use_at_all_is_told_where_it_stands(tmp_path: Path, option: str, value: Any) -> None:
    (line,) = refusals(tmp_path, **{option: value})
    assert line.startswith((f"{option}: must ", f"{option}.0: must "))


@pytest.mark.parametrize(
    ("num_frames", "nearest"),
    [(75, 76), (77, 76), (81, 80), (79, 80), (1, 4), (0, 4), (-80, 4), (2, 4), (121, 120), (124, 120), (999, 120)],
)
def test_frames_that_are_no_whole_latents_are_refused_with_the_right_number(tmp_path: Path, num_frames: int, nearest: int) -> None:
    message = f"num_frames: must be a multiple of 4 up to 120, 80 officially; nearest is {nearest} (it is {num_frames})"
    assert refusals(tmp_path, num_frames=num_frames) == [message]


@pytest.mark.parametrize("num_frames", [4, 48, 76, 80, 120])
def test_frames_of_whole_latents_are_taken(tmp_path: Path, num_frames: int) -> None:
    assert source(tmp_path, num_frames=num_frames).num_frames == num_frames


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("sample_rate", 44_100, "must be 16000, what Wav2Vec2 was trained on; files of any rate are resampled to it (it is 44100)"),
        ("sample_rate", 8000, "must be 16000, what Wav2Vec2 was trained on; files of any rate are resampled to it (it is 8000)"),
        ("channels", 2, "must be 1, what Wav2Vec2 was trained on; files of any number of channels are averaged (it is 2)"),
        ("channels", 0, "must be 1, what Wav2Vec2 was trained on; files of any number of channels are averaged (it is 0)"),
        ("aspect_rounding", 5, "must be less than or equal to 4 (it is 5)"),
        ("duration_interval", 0.2, "must be greater than or equal to 0.25 (it is 0.2)"),
        ("duration_interval", 31, "must be less than or equal to 30 (it is 31)"),
        ("max_duration_seconds", 0, "must be greater than 0 (it is 0)"),
        ("weight", 0, "must be greater than 0 (it is 0)"),
        ("repeats", -1, "must be greater than or equal to 0 (it is -1)"),
        ("min_frames", 0, "must be greater than or equal to 1 (it is 0)"),
        ("aspects", [], "must not be empty"),
        ("crop", "middle", "must be 'none', 'center', 'random' or 'corner' (it is 'middle')"),
        ("aspect", "keep", "must be 'preserve', 'square' or 'random' (it is 'keep')"),
        ("caption", "parquet", "must be 'textfile', 'filename', 'fixed' or 'column' (it is 'parquet')"),
        ("resolution_type", "megapixels", "must be 'exact', 'pixel_area', 'area' or 'pixel' (it is 'megapixels')"),
        ("bucket_strategy", "size", "must be 'aspect_ratio' or 'resolution_frames' (it is 'size')"),
        ("window", "middle", "must be 'beginning', 'end' or 'random' (it is 'middle')"),
        ("truncation_mode", "middle", "must be 'beginning', 'end' or 'random' (it is 'middle')"),
    ],
)
def test_value_out_of_its_range(tmp_path: Path, option: str, value: Any, message: str) -> None:
    assert refusals(tmp_path, **{option: value}) == [f"{option}: {message}"]


@pytest.mark.parametrize(
    ("resolution", "size"),
    [("832x480", (832, 480)), ("480X832", (480, 832)), ("64x64", (64, 64)), ("1280x720", (1280, 720)), ("4096x4096", (4096, 4096))],
)
def test_exact_resolutions(tmp_path: Path, resolution: str, size: tuple[int, int]) -> None:
    assert source(tmp_path, resolution=resolution).exact_size() == size


@pytest.mark.parametrize(
    ("resolution", "resolution_type"),
    [(640, "pixel_area"), (64, "pixel_area"), (4096, "pixel"), (480.0, "pixel"), (0.4, "area"), (0.004096, "area"), (16.777216, "area")],
)
def test_resolutions_that_are_numbers(tmp_path: Path, resolution: float, resolution_type: str) -> None:
    assert source(tmp_path, resolution=resolution, resolution_type=resolution_type).resolution == resolution


@pytest.mark.parametrize("resolution", ["832", 832, "832x480x3", "-832x480", "832*480", "²x480", "", "832 x 480", "100000x480"])
def test_exact_resolution_that_is_no_size(tmp_path: Path, resolution: Any) -> None:
    assert refusals(tmp_path, resolution=resolution) == [f"resolution {resolution!r} must read like 832x480 where resolution_type is exact"]


@pytest.mark.parametrize(
    ("resolution", "nearest"),
    [("833x480", "832x480"), ("832x490", "832x496"), ("48x480", "64x480"), ("0x0", "64x64"), ("99999x480", "4096x480")],
)
def test_exact_resolution_that_no_bucket_has_is_refused_with_the_nearest(tmp_path: Path, resolution: str, nearest: str) -> None:
    message = f"resolution {resolution}: both sides must be multiples of 16 from 64 to 4096; nearest is {nearest}"
    assert refusals(tmp_path, resolution=resolution) == [message]


@pytest.mark.parametrize(
    ("resolution", "resolution_type", "message"),
    [
        ("832x480", "pixel", "resolution '832x480' must be a number where resolution_type is pixel"),
        ("832x480", "area", "resolution '832x480' must be a number where resolution_type is area"),
        (0, "pixel_area", "resolution 0 must be from 64 to 4096 pixels where resolution_type is pixel_area"),
        (0.4, "pixel_area", "resolution 0.4 must be from 64 to 4096 pixels where resolution_type is pixel_area"),
        (-480, "pixel", "resolution -480 must be from 64 to 4096 pixels where resolution_type is pixel"),
        (480, "area", "resolution 480 must be from 0.004096 to 16.7772 megapixels where resolution_type is area"),
    ],
)
def test_resolution_that_does_not_fit_its_type(tmp_path: Path, resolution: Any, resolution_type: str, message: str) -> None:
    assert refusals(tmp_path, resolution=resolution, resolution_type=resolution_type) == [message]


@pytest.mark.parametrize("resolution", [None, [832, 480], {"width": 832}, float("inf"), float("nan"), float("-inf")])
def test_resolution_of_no_type_at_all_is_one_mistake_at_the_key_that_was_written(tmp_path: Path, resolution: Any) -> None:
    (line,) = refusals(tmp_path, resolution=resolution)
    assert line.startswith("resolution: must read like 832x480, or be a number")


AREA = {"resolution": 640, "resolution_type": "pixel_area"}
CONTRADICTIONS: list[tuple[dict[str, Any], list[str]]] = [
    (
        {"crop": "none"},
        ["crop: none keeps the whole picture, so resolution_type: exact would distort it; give pixel_area, area or pixel"],
    ),
    ({"aspect": "square"}, ["aspect: square contradicts resolution_type: exact; give pixel_area, area or pixel"]),
    (
        AREA | {"aspect": "square", "crop": "none"},
        ["crop: none keeps the whole picture, so aspect must be preserve, not square"],
    ),
    (AREA | {"aspect": "random"}, ["aspect: random needs aspects, a list such as [0.75, 1.0, 1.33]"]),
    (AREA | {"aspect": "square", "aspects": [1.0]}, ["aspects are for aspect: random"]),
    ({"aspects": [1.0]}, ["aspects are for aspect: random"]),
    ({"max_size": 1080}, ["max_size and downsample_to belong together: give both or none"]),
    ({"downsample_to": 720}, ["max_size and downsample_to belong together: give both or none"]),
    (
        AREA | {"crop": "none", "max_size": 1080, "downsample_to": 720},
        ["downsample_to shrinks before cropping, and crop is none"],
    ),
    ({"max_size": 720, "downsample_to": 1080}, ["downsample_to 1080 must not be above max_size 720"]),
    (
        {"resolution": "832x480", "max_size": 720, "downsample_to": 479},
        ["downsample_to 479 must be at least the resolution's 480: it would be enlarged again"],
    ),
    (
        AREA | {"max_size": 1080, "downsample_to": 320.5},
        ["downsample_to 320.5 must be at least the resolution's 640: it would be enlarged again"],
    ),
    ({"min_size": 2000, "max_size": 1080, "downsample_to": 720}, ["min_size 2000 must not be above max_size 1080"]),
    ({"frame_interval": 16}, ["frame_interval is for bucket_strategy: resolution_frames"]),
    ({"bucket_strategy": "resolution_frames"}, ["bucket_strategy: resolution_frames needs frame_interval, e.g. 16"]),
    (
        {"bucket_strategy": "resolution_frames", "frame_interval": 15},
        ["frame_interval 15 must be a multiple of 4, at most num_frames 80"],
    ),
    (
        {"bucket_strategy": "resolution_frames", "frame_interval": 84},
        ["frame_interval 84 must be a multiple of 4, at most num_frames 80"],
    ),
    ({"min_frames": 79}, ["min_frames 79 must be at least 80"]),
    ({"bucket_strategy": "resolution_frames", "frame_interval": 16, "min_frames": 15}, ["min_frames 15 must be at least 16"]),
    ({"max_frames": 79}, ["max_frames 79 must be at least 80"]),
    ({"min_frames": 100, "max_frames": 90}, ["max_frames 90 must be at least 100"]),
    ({"caption": "fixed"}, ["caption: fixed needs instance_prompt"]),
    ({"caption": "fixed", "instance_prompt": " \n"}, ["caption: fixed needs instance_prompt"]),
    ({"instance_prompt": "a face talks"}, ["instance_prompt is for caption: fixed"]),
    ({"is_eval": True, "repeats": 1}, ["an is_eval source is never trained on: no repeats, no weight"]),
    (
        {"auto_split": True, "audio_path": "sounds"},
        ["auto_split: true takes the sound from the video, audio_path from elsewhere: give one"],
    ),
    ({"auto_split": False}, ["auto_split: false needs audio_path, or allow_zero_audio: true"]),
    (
        {"crop": "none", "aspect": "random", "max_size": 10, "min_frames": 3, "caption": "fixed", "auto_split": False, "name": "a/b"},
        [
            "crop: none keeps the whole picture, so resolution_type: exact would distort it; give pixel_area, area or pixel",
            "crop: none keeps the whole picture, so aspect must be preserve, not random",
            "aspect: random contradicts resolution_type: exact; give pixel_area, area or pixel",
            "aspect: random needs aspects, a list such as [0.75, 1.0, 1.33]",
            "max_size and downsample_to belong together: give both or none",
            "min_frames 3 must be at least 80",
            "caption: fixed needs instance_prompt",
            "name 'a/b' must not begin with a dot or a space, nor hold / or line breaks: give another name",
            "auto_split: false needs audio_path, or allow_zero_audio: true",
        ],
    ),
]


@pytest.mark.parametrize(("options", "messages"), CONTRADICTIONS, ids=lambda value: ",".join(value) if isinstance(value, dict) else "")
def test_settings_that_contradict_each_other(tmp_path: Path, options: dict[str, Any], messages: Sequence[str]) -> None:
    assert refusals(tmp_path, **options) == messages


def test_weight_of_a_held_out_source(tmp_path: Path) -> None:
    sources = [{"path": "clips", "weight": 1}, {"path": "faces", "is_eval": True, "weight": 2}]
    message = "data.sources.1: an is_eval source is never trained on: no repeats, no weight"
    assert mistakes(tmp_path, changed({"data.sources": sources})) == [message]


@pytest.mark.parametrize(
    "options",
    [
        AREA | {"crop": "none"},
        AREA | {"crop": "random", "aspect": "square"},
        AREA | {"aspect": "random", "aspects": [0.75, 1.0, 1.33]},
        {"crop": "corner", "min_size": 240, "max_size": 1080, "downsample_to": 720},
        {"min_size": 720, "max_size": 720, "downsample_to": 720},
        {"resolution": "480x832", "max_size": 480, "downsample_to": 480},
        {"min_frames": 80, "max_frames": 80},
        {"bucket_strategy": "resolution_frames", "frame_interval": 80},
        {"bucket_strategy": "resolution_frames", "frame_interval": 16, "max_frames": 16},
        *({"window": window, "windows_per_clip": 3} for window in ("beginning", "end", "random")),
        {"caption": "fixed", "instance_prompt": "a face talks"},
        {"caption": "filename"},
        {"path": "clips.parquet", "caption": "column"},
        {"repeats": 3, "weight": 0.5},
        {"auto_split": True},
        {"auto_split": False, "audio_path": "sounds"},
        {"auto_split": False, "allow_zero_audio": True},
        {"audio_path": "sounds", "allow_zero_audio": True},
        {"max_duration_seconds": 30, "duration_interval": 0.25, "truncation_mode": "random"},
        {"sample_rate": 16_000, "channels": 1, "name": "größer 顔"},
    ],
    ids=lambda options: ",".join(options),
)
def test_settings_that_agree(tmp_path: Path, options: dict[str, Any]) -> None:
    assert source(tmp_path, **options).model_dump() == {"path": "clips"} | DEFAULTS | options


@pytest.mark.parametrize(
    ("path", "called"),
    [
        ("clips", "clips"),
        ("/data/faces/", "faces"),
        ("s3://bucket/shards/train-000.tar", "train-000"),
        ("s3://bucket", "bucket"),
        ("hf://datasets/owner/set/clips.parquet", "clips"),
        ("lists/talk.csv", "talk"),
        ("C:\\clips\\faces\\", "faces"),
        ("v1.5", "v1.5"),
        (".", "clips"),
        ("..", "clips"),
        ("/", "clips"),
        ("/data/.hidden", "hidden"),
        ("/data/größer 顔", "größer 顔"),
    ],
)
def test_source_is_called_by_the_last_part_of_its_path(tmp_path: Path, path: str, called: str) -> None:
    assert source(tmp_path, path=path).called() == called
    assert source(tmp_path, path=path, name="faces").called() == "faces"


@pytest.mark.parametrize("name", ["a/b", ".hidden", "../x", " ", " a", "a\nb", "a\tb", "\x1b[31m"])
def test_name_that_would_break_ids_or_tables(tmp_path: Path, name: str) -> None:
    message = f"name {name!r} must not begin with a dot or a space, nor hold / or line breaks: give another name"
    assert refusals(tmp_path, name=name) == [message]
    if "/" not in name and name[0] not in ". ":
        assert refusals(tmp_path, path=f"/data/{name}") == [message]


@pytest.mark.parametrize(
    ("options", "frames"),
    [
        ({}, 80),
        ({"num_frames": 48}, 48),
        ({"min_frames": 100}, 100),
        ({"bucket_strategy": "resolution_frames", "frame_interval": 16}, 16),
        ({"bucket_strategy": "resolution_frames", "frame_interval": 16, "min_frames": 20}, 20),
    ],
)
def test_least_frames(tmp_path: Path, options: dict[str, Any], frames: int) -> None:
    assert source(tmp_path, **options).least_frames() == frames


@pytest.mark.parametrize(
    ("options", "own"),
    [
        ({}, True),
        ({"auto_split": True}, True),
        ({"audio_path": "sounds"}, False),
        ({"auto_split": False, "audio_path": "sounds"}, False),
        ({"auto_split": False, "allow_zero_audio": True}, False),
        ({"allow_zero_audio": True}, True),
    ],
)
def test_where_the_sound_is(tmp_path: Path, options: dict[str, Any], own: bool) -> None:
    assert source(tmp_path, **options).takes_own_sound() is own
