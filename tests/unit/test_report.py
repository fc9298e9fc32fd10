"""A run's page: what it reads, which figures and points come of it, and that the page holds everything and nothing foreign."""

import base64
import fcntl
import json
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ray_s2v.report import main
from ray_s2v.reporting.report.curve import BOTTOM, LEFT, RIGHT, TOP, Curve, Series, drawn, finite, running_mean, shown
from ray_s2v.reporting.report.figures import figures
from ray_s2v.reporting.report.page import write_report
from ray_s2v.reporting.report.recorded import Resumption, read_run
from ray_s2v.schema import ConfigError
from tests.report_run import SCENES, SCRIPT, TAG, held_out_line, make_run, step_line, write_lines


class Seen(HTMLParser):
    """What a browser would make of a page: its tags, all that they refer to, and the words between them."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.references: list[tuple[str, str]] = []
        self.words: list[str] = []
        self.feed(page.read_text(encoding="utf-8"))
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.references += [
            (tag, value or "") for name, value in attributes if name in ("src", "href", "poster", "srcset", "action", "data")
        ]
        assert not any(name.startswith("on") for name, _ in attributes)

    def handle_data(self, words: str) -> None:
        self.words.append(words)

    def sources(self) -> list[str]:
        return [value for tag, value in self.references if tag == "video" and not value.startswith("data:image")]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("runs") / "faces", of=80, done=64)


def begun(folder: Path, *steps: dict[str, Any], held_out: list[dict[str, Any]] | None = None) -> Path:
    folder.mkdir(exist_ok=True)
    write_lines(folder / "steps.jsonl", steps)
    write_lines(folder / "held_out.jsonl", held_out or [])
    return folder


def steps_of(*numbers: int) -> list[dict[str, Any]]:
    return [step_line(number, 10) for number in numbers]


def value(folder: Path, name: str) -> tuple[str, str]:
    return {figure.name: (figure.value, figure.more) for figure in figures(read_run(folder))}[name]


def test_steps_that_a_kill_undid_are_not_shown(tmp_path: Path) -> None:
    again = step_line(2, 10, loss=7.0)
    run = read_run(begun(tmp_path, *steps_of(0, 1, 2, 3, 4), again, held_out=[held_out_line(step, 10) for step in (0, 2, 4)]))
    assert [line["step"] for line in run.steps] == [0, 1, 2]
    assert run.steps[2]["loss"] == 7.0
    assert run.resumptions == [Resumption(step=2, again=3)]
    assert run.done == 3
    assert [line["step"] for line in run.held_out] == [0, 2]
    assert run.spent_s == pytest.approx(sum(line["step_s"] for line in [*steps_of(0, 1, 2, 3, 4), again]))


def test_a_line_that_is_being_written_is_left_out(tmp_path: Path) -> None:
    begun(tmp_path, *steps_of(0, 1))
    with (tmp_path / "steps.jsonl").open("a") as file:
        file.write('{"step": 2, "lo')
    assert read_run(tmp_path).done == 2


def test_a_damaged_line_is_refused_by_its_number_and_the_old_page_stays(tmp_path: Path) -> None:
    begun(tmp_path, *steps_of(0, 1))
    before = write_report(tmp_path).read_bytes()
    (tmp_path / "steps.jsonl").write_text('{"step": 0\n' + json.dumps(step_line(1, 10)) + "\n")
    with pytest.raises(ConfigError, match=r"steps\.jsonl, line 1: damaged"):
        write_report(tmp_path)
    assert (tmp_path / "report.html").read_bytes() == before
    assert not list(tmp_path.glob(".report*"))


def test_a_page_is_replaced_as_a_whole(tmp_path: Path) -> None:
    page = write_report(begun(tmp_path, *steps_of(0)))
    before = page.read_bytes()
    with page.open("rb") as opened:  # as by someone who reads it just then
        assert write_report(begun(tmp_path, *steps_of(0, 1))).read_bytes() != before
        assert opened.read() == before
    assert [path.name for path in tmp_path.iterdir() if "report" in path.name] == ["report.html"]


def test_states(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", of=8, done=6, scenes=())
    assert read_run(folder).state == "stopped"
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert read_run(folder).state == "running"
    assert read_run(folder).state == "stopped"
    write_lines(folder / "steps.jsonl", (step_line(step, 8) for step in range(8)))
    assert read_run(folder).state == "stopped"
    (folder / "adapter").mkdir()
    (folder / "adapter" / "adapter_model.safetensors").touch()
    assert read_run(folder).state == "finished"
    (folder / "steps.jsonl").unlink()
    assert read_run(folder).state == "not begun"


def test_figures(tmp_path: Path) -> None:
    steps = [step_line(step, 10, loss=loss, step_s=4.0, wait_s=1.0, clip_ids=["a", "b"]) for step, loss in enumerate([3.0] * 5 + [2.0] * 5)]
    held_out = [
        held_out_line(0, 10, loss=0.5, worse_with_other_sound=None),
        held_out_line(5, 10, loss=0.4, worse_with_other_sound=-0.001),
        held_out_line(10, 10, loss=0.25, worse_with_other_sound=0.0125),
    ]
    begun(tmp_path, *steps, held_out=held_out)
    assert value(tmp_path, "Loss") == ("2", "3 at first, -33.3%; means of 5")
    assert value(tmp_path, "Held-out loss") == ("0.25", "0.5 at first, -50.0%")
    assert value(tmp_path, "Audio sensitivity") == ("+0.0125", "worse with another clip's sound; -0.001 at first")
    assert value(tmp_path, "Time in steps") == ("0:40", "4 s a step")
    assert value(tmp_path, "Clips a second") == ("0.5", "waits for data 25% of the time")


def test_time_left_of_a_running_run(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", of=10, done=4, scenes=())
    write_lines(folder / "steps.jsonl", (step_line(step, 10, step_s=20.0) for step in range(4)))
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert value(folder, "Time in steps") == ("1:20", "20 s a step, 2:00 left")


def test_running_mean_is_that_of_numpy() -> None:
    losses = np.random.default_rng(0).random(50)
    means = [y for _, y in running_mean(list(enumerate(losses)), over=7)]
    assert means[:3] == pytest.approx([losses[:1].mean(), losses[:2].mean(), losses[:3].mean()])
    assert means[6:] == pytest.approx(np.convolve(losses, np.ones(7) / 7, "valid"))


def test_points_lie_where_their_values_say() -> None:
    drawing = drawn(Curve("", "", [Series("", "red", [(0, 1.0), (50, 2.0), (100, 3.0)])]), last_step=100, marks=[25])
    (first, middle, last) = drawing.lines[0].dots
    assert (first[0], middle[0], last[0]) == (LEFT, (LEFT + RIGHT) / 2, RIGHT)
    assert BOTTOM > first[1] > middle[1] > last[1] > TOP
    assert middle[1] == pytest.approx((first[1] + last[1]) / 2)
    assert drawing.marks == [LEFT + (RIGHT - LEFT) / 4]
    heights = dict((float(text), y) for y, text in drawing.y_ticks)
    assert heights[2] == pytest.approx(middle[1])


def test_a_spike_is_neither_lost_nor_flattens_the_rest() -> None:
    points = [(float(step), 1 + step % 10 / 10) for step in range(5000)]
    points[1234] = (1234.0, 500.0)
    drawing = drawn(Curve("", "", [Series("", "red", points)], is_cut=True), last_step=5000, marks=[])
    places = [tuple(map(float, place.split())) for place in drawing.lines[0].path[1:].split("L")]
    assert len(places) <= 402
    assert min(y for _, y in places) < 0  # beyond the top
    assert max(y for _, y in places) - sorted(y for _, y in places)[1] > (BOTTOM - TOP) / 10
    assert drawing.above == "500"


def test_spots_cover_the_plot_and_tell_the_values() -> None:
    drawing = drawn(Curve("", "", [Series("", "red", [(step, step / 7) for step in range(1, 301)])]), last_step=300, marks=[])
    assert 60 <= len(drawing.spots) <= 80
    assert drawing.spots[0].left == LEFT
    for one, following in pairwise(drawing.spots):
        assert one.left + one.width == pytest.approx(following.left)
        assert one.left <= one.x <= one.left + one.width
    assert (drawing.spots[-1].step, drawing.spots[-1].values[0][1]) == ("300", "42.86")


def test_values_that_are_none_or_not_finite_are_no_points() -> None:
    assert finite([(0, None), (1, float("nan")), (2, float("inf")), (3, 4)]) == [(3, 4.0)]


@pytest.mark.parametrize(
    ("value", "text"), [(0.0, "0"), (1.23456, "1.235"), (0.0003, "0.0003"), (1.5e-5, "1.50e-5"), (-2e-10, "-2.00e-10"), (12345.6, "12,346")]
)
def test_shown(value: float, text: str) -> None:
    assert shown(value) == text


def test_what_comes_from_users_is_words_and_never_tags(run: Path) -> None:
    seen = Seen(write_report(run))
    assert "script" not in seen.tags
    assert "b" in seen.tags  # our own
    assert seen.tags.count("b") == 1
    assert "img" not in seen.tags
    assert seen.text.count(TAG) >= 4 * 2  # scenes and their prompts
    for words in (
        f"{SCRIPT}.mp4 no sound",
        f"faces/{SCRIPT}.mp4",
        f"out of memory {SCRIPT}",
        f"a person talks {SCRIPT}",
        f"even light {SCRIPT}",
    ):
        assert words in seen.text
    assert "truncated or damaged: <b>a packet</b> is incomplete" in seen.text
    assert "/data/faces/2.mp4" in seen.text
    assert 'the "caption", is empty' in seen.text


def test_the_page_refers_to_nothing_outside(run: Path) -> None:
    seen = Seen(write_report(run))
    assert seen.references
    assert all(value.startswith("data:") for _, value in seen.references)
    assert not {"link", "img", "iframe", "object", "embed", "form", "base"} & set(seen.tags) - {"link"}
    assert [value for tag, value in seen.references if tag == "link"] == ["data:,"]


def test_videos_are_in_the_page_the_newest_first_and_beyond_the_limit_beside_it(run: Path) -> None:
    lines = [json.loads(line) for line in (run / "validation.jsonl").read_text().splitlines()]
    paths = [path for line in reversed(lines) for path in line["videos"].values()]
    assert len(paths) == 4 * (len(SCENES) + 1)

    def in_page(source: str) -> bytes:
        return base64.b64decode(source.removeprefix("data:video/mp4;base64,"), validate=True)

    assert [in_page(source) for source in Seen(write_report(run)).sources()] == [(run / path).read_bytes() for path in paths]
    room = sum((run / path).stat().st_size for path in paths[:3])
    seen = Seen(write_report(run, most_embedded=room))
    assert [in_page(source) for source in seen.sources()[:3]] == [(run / path).read_bytes() for path in paths[:3]]
    assert seen.sources()[3:] == paths[3:]
    assert "Older ones play from the run's folder" in seen.text
    assert "Older ones play" not in Seen(write_report(run)).text


def test_videos_that_are_gone_damaged_or_outside_are_said_so(tmp_path: Path) -> None:
    folder = begun(tmp_path / "run", *steps_of(0))
    (tmp_path / "secret.mp4").write_bytes(b"secret")
    (folder / "damaged.mp4").write_bytes(b"no video")
    videos = {"gone": "gone.mp4", "outside": "../secret.mp4", "damaged": "damaged.mp4"}
    write_lines(folder / "validation.jsonl", [{"step": 1, "videos": videos, "failed": {"failing": "no memory"}}])
    seen = Seen(write_report(folder))
    assert seen.sources() == []
    assert seen.text.count("No video: the file is not there any more") == 2
    assert "No video: the file cannot be read: Invalid data found" in seen.text
    assert "No video: no memory failing" in seen.text


def test_settings_other_than_the_defaults_come_first(run: Path) -> None:
    text = Seen(write_report(run)).text
    chosen, everything = text.split("Other than the defaults")[1].split(" All ", 1)
    assert "training.learning_rate 0.0002" in chosen
    assert "data.sources.1.is_eval true" in chosen
    assert "lora.rank" not in chosen
    assert "lora.rank 16" in everything
    assert "lora.targets [to_q, to_k, to_v, to_out.0]" in everything


def test_a_job_of_another_version_is_shown_as_it_stands(tmp_path: Path) -> None:
    begun(tmp_path, *steps_of(0))
    (tmp_path / "job.yaml").write_text("old: {setting: 3}\n")
    text = Seen(write_report(tmp_path)).text
    assert "job.yaml is of another version of ray_s2v" in text
    assert "old.setting 3" in text


@pytest.mark.parametrize(
    "files", [{"job.yaml": "run: {folder: a}\n"}, {"held_out.jsonl": ""}, {"steps.jsonl": "", "rejected.csv": "path,reason\n"}]
)
def test_a_run_that_has_just_begun_has_a_page(tmp_path: Path, files: dict[str, str]) -> None:
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    seen = Seen(write_report(tmp_path))
    assert "not begun" in seen.text
    assert "no clip has been held out and measured" in seen.text
    assert "Validation videos" not in seen.text
    assert "svg" not in seen.tags


def test_one_step_and_clips_that_cannot_be_compared(tmp_path: Path) -> None:
    first = held_out_line(0, 10, worse_with_other_sound=None, worse_without_sound=None, by_level=[0.5])
    seen = Seen(write_report(begun(tmp_path, *steps_of(0), held_out=[first])))
    assert "The held-out clips could not be compared" in seen.text
    assert seen.tags.count("circle") > 0


def test_the_command(tmp_path: Path, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(run)]) == 0
    assert str(run / "report.html") in capsys.readouterr().out
    assert main([str(tmp_path)]) == 2
    assert "no run's folder" in capsys.readouterr().err
    assert main([str(tmp_path / "nowhere")]) == 2
