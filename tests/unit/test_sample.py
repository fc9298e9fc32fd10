"""`python -m ray_s2v.sample` tells every mistake before anything is loaded."""

from pathlib import Path

import pytest
import yaml
from PIL import Image

from ray_s2v.sample import _main
from tests.jobs import changed


@pytest.mark.parametrize(
    ("option", "value", "told"),
    [
        ("prompt", "", "--prompt: "),
        ("seconds", "-1", "--seconds: "),
        ("out", "video.avi", "--out video.avi: must be a .mp4 in a folder that is there"),
        ("out", "nowhere/video.mp4", "must be a .mp4 in a folder that is there"),
        ("adapter", "nowhere", "--adapter nowhere: holds no adapter_model.safetensors"),
        ("picture", "nowhere.png", "picture nowhere.png: "),
        ("speech", "face.png", "speech face.png: not a media file of a kind"),
    ],
)
def test_mistakes_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], option: str, value: str, told: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("job.yaml").write_text(yaml.safe_dump(changed({"training.worker_gpus": 0})))
    Image.new("RGB", (64, 64)).save("face.png")
    given = {"picture": "face.png", "speech": "face.png", "prompt": "a face", "out": "video.mp4"} | {option: value}
    assert _main(["job.yaml", *(f"--{name}={text}" for name, text in given.items())]) == 2
    assert told in capsys.readouterr().err
    assert not Path("video.mp4").exists()
