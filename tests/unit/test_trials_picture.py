"""A sweep's picture: what is drawn of which trial, on which axes; how it looks is for eyes."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure
from PIL import Image

from ray_s2v.config.sweep import Range
from ray_s2v.reporting.trials import State, TrialRecord
from ray_s2v.reporting.trials_picture import picture, save_picture

RATE, LAYERS = "training.learning_rate", "lora.layers"
SPACE = {RATE: Range(values=[1e-3, 3e-3]), LAYERS: Range(values=["all", "blocks"])}


def trial(number: int, *losses: float, state: State = "done", **values: Any) -> TrialRecord:
    named = {RATE: 1e-3, LAYERS: "all"} | {{"rate": RATE, "layers": LAYERS}[key]: value for key, value in values.items()}
    return TrialRecord(f"trial_{number:03d}", named, state, list(enumerate(losses)), "", "")


FOUR = [
    trial(0, 1.0, 0.9, 0.8),
    trial(1, 1.0, 0.8, 0.6, layers="blocks"),
    trial(2, 1.0, 0.95, rate=3e-3, state="stopped early"),
    trial(3, state="waiting", rate=3e-3, layers="blocks"),
]


def curves(figure: Figure) -> list[tuple[list[float], list[float]]]:
    return [(list(line.get_xdata()), list(line.get_ydata())) for line in figure.axes[0].lines if line.get_linestyle() != "None"]


def marks(figure: Figure, panel: int) -> dict[tuple[float, float], tuple[str, bool]]:
    """Where the marks of a panel are: their shape, and whether they are hollow."""
    points = [line for line in figure.axes[panel].lines if line.get_linestyle() == "None"]
    return {(p.get_xdata()[0], p.get_ydata()[0]): (p.get_marker(), p.get_markerfacecolor() == "white") for p in points}


def test_losses_over_steps_and_last_ones_against_values() -> None:
    figure = picture(FOUR, SPACE)
    assert sorted(curves(figure)) == [([0, 1], [1.0, 0.95]), ([0, 1, 2], [1.0, 0.8, 0.6]), ([0, 1, 2], [1.0, 0.9, 0.8])]
    assert marks(figure, 0) == {(2, 0.8): ("o", False), (2, 0.6): ("*", False), (1, 0.95): ("o", True)}
    assert marks(figure, 1) == {(1e-3, 0.8): ("o", False), (1e-3, 0.6): ("*", False), (3e-3, 0.95): ("o", True)}
    assert marks(figure, 2) == {(0, 0.8): ("o", False), (1, 0.6): ("*", False), (0, 0.95): ("o", True)}
    assert [axes.get_xlabel() for axes in figure.axes] == ["steps done", "learning_rate", "layers"]
    assert [label.get_text() for label in figure.axes[2].get_xticklabels()] == ["all", "blocks"]
    assert figure.axes[0].get_ylabel()


def test_trials_are_named_where_they_are_few() -> None:
    labels = [text.get_text() for text in picture(FOUR, SPACE).legends[0].get_texts()]
    assert labels == [
        "trial_001: learning_rate 0.001, layers blocks, the best, 0.60000",
        "trial_000: learning_rate 0.001, layers all",
        "trial_002: learning_rate 0.003, layers all",
        "the best",
        "stopped early",
    ]
    lines = [line for line in picture(FOUR, SPACE).axes[0].lines if line.get_linestyle() != "None"]
    assert len({line.get_color() for line in lines}) == 3


@pytest.mark.parametrize(
    ("values", "scale"),
    [
        (Range(log_uniform=(1e-5, 1e-4)), "log"),
        (Range(uniform=(1e-5, 1e-1)), "linear"),
        (Range(values=[1, 20]), "linear"),
        (Range(values=[1, 21]), "log"),
        (Range(values=[0, 1, 30]), "linear"),
        (Range(values=[True, False]), "linear"),
        (Range(log_integer=(1, 64)), "log"),
        (Range(integer=(1, 64)), "linear"),
    ],
)
def test_scale_of_values(values: Range, scale: str) -> None:
    figure = picture([trial(0, 1.0, 0.5, rate=values.extremes()[0])], {RATE: values})
    assert figure.axes[1].get_xscale() == scale


def test_trial_that_went_astray_does_not_flatten_the_others() -> None:
    records = [trial(n, 1.0, 0.9 - n / 100) for n in range(6)] + [trial(9, 1.0, 80.0)]
    figure = picture(records, SPACE)
    for panel in (0, 1):
        low, top = figure.axes[panel].get_ylim()
        assert low < 0.85
        assert top < 2
        assert [y for (_, y), (shape, _) in marks(figure, panel).items() if shape == "^"] == [pytest.approx(top, rel=0.1)]
    assert "loss above the picture" in [text.get_text() for text in figure.legends[0].get_texts()]
    assert marks(picture(records[:6], SPACE), 1).keys() == {(1e-3, 0.9 - n / 100) for n in range(6)}


def test_all_losses_are_shown_where_they_are_alike() -> None:
    records = [trial(n, 1.0, 0.5 + n / 10) for n in range(6)]
    low, top = picture(records, SPACE).axes[0].get_ylim()
    assert low < 0.5 < 1.0 < top
    assert picture([trial(0, 1.0, 1.0)], SPACE).axes[0].get_ylim()[0] < 1.0


def test_hundred_trials_share_a_scale_of_colours_and_only_the_best_is_named() -> None:
    records = [trial(n, 1.0, 0.5 + n / 1000) for n in range(100)]
    figure = picture(records, SPACE)
    assert len(curves(figure)) == 100
    assert [text.get_text().split(":")[0] for text in figure.legends[0].get_texts()] == ["trial_000", "the best"]
    assert figure.axes[-1].get_ylabel() == "last loss"  # of the colour bar
    assert len({str(line.get_color()) for line in figure.axes[0].lines}) > 50


def test_file_is_a_picture(tmp_path: Path) -> None:
    path = tmp_path / "sweep.png"
    for records in ([], FOUR):
        save_picture(path, records, SPACE)
        with Image.open(path) as image:
            assert image.format == "PNG"
            assert min(image.size) > 400
    assert [file.name for file in tmp_path.iterdir()] == ["sweep.png"]


def test_drawing_leaves_the_program_as_it_was(tmp_path: Path) -> None:
    code = (
        "import sys, matplotlib; before = matplotlib.rcParams.copy(); from pathlib import Path\n"
        "from ray_s2v.reporting.trials_picture import save_picture; from ray_s2v.config.sweep import Range\n"
        "save_picture(Path(sys.argv[1]), [], {'a.b': Range(values=[1])})\n"
        "print(matplotlib.rcParams.copy() == before, {'matplotlib.pyplot', 'torch', 'ray'} & set(sys.modules))"
    )
    environment = {name: value for name, value in os.environ.items() if name not in ("DISPLAY", "MPLBACKEND")}
    command = [sys.executable, "-c", code, str(tmp_path / "a.png")]
    assert subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.strip() == "True set()"
