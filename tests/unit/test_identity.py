"""Which weights an encoder has: the same wherever they lie, others after any change that training could make."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from ray_s2v.encoders.identity import SAMPLE_BYTES, SAMPLES, identity, numbers_in_config

# Of a file of 127 samples' size, the samples are every other stretch: 126 * s // 63 = 2 s.
SPARSE = (2 * SAMPLES - 1) * SAMPLE_BYTES
WEIGHTS = "model.safetensors"


def folder(path: Path, size: int = 1000, name: str = WEIGHTS) -> Path:
    path.mkdir()
    (path / "config.json").write_text('{"hidden_size": 32}')
    (path / name).write_bytes(np.random.default_rng(0).bytes(size))
    return path


def change(file: Path, position: int) -> None:
    """Another byte in the place of one."""
    with file.open("r+b") as content:
        content.seek(position)
        (byte,) = content.read(1)
        content.seek(position)
        content.write(bytes([byte ^ 1]))


@pytest.mark.parametrize("size", [0, 1000, 3 * SAMPLE_BYTES, SPARSE])
def test_same_files_elsewhere_are_the_same(tmp_path: Path, size: int) -> None:
    first, second = folder(tmp_path / "a", size), folder(tmp_path / "b", size)
    (second / "README.md").write_text("what is beside them does not matter")
    os.utime(second / WEIGHTS, (0, 0))
    assert identity(str(first)) == identity(str(second)) == identity(f"{first}/")
    assert len(identity(str(first))) == 32
    int(identity(str(first)), 16)


@pytest.mark.parametrize("size", [1, 1000, SAMPLE_BYTES, SAMPLE_BYTES + 1, 3 * SAMPLE_BYTES - 7, SAMPLES * SAMPLE_BYTES, SPARSE])
@pytest.mark.parametrize("place", ["beginning", "end"])
def test_a_byte_at_either_end_makes_another(tmp_path: Path, size: int, place: str) -> None:
    weights = folder(tmp_path / "a", size)
    before = identity(str(weights))
    change(weights / WEIGHTS, 0 if place == "beginning" else size - 1)
    assert identity(str(weights)) != before


@pytest.mark.parametrize("size", [SAMPLE_BYTES + 1, 3 * SAMPLE_BYTES - 7, SAMPLES * SAMPLE_BYTES - 1, SAMPLES * SAMPLE_BYTES])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.77])
def test_files_of_up_to_four_mebibytes_are_read_whole(tmp_path: Path, size: int, share: float) -> None:
    weights = folder(tmp_path / "a", size)
    before = identity(str(weights))
    change(weights / WEIGHTS, int(share * size))
    assert identity(str(weights)) != before


def test_larger_files_are_read_in_samples(tmp_path: Path) -> None:
    weights = folder(tmp_path / "a", SPARSE)
    before = identity(str(weights))
    change(weights / WEIGHTS, 3 * SAMPLE_BYTES)
    change(weights / WEIGHTS, SPARSE - SAMPLE_BYTES - 1)
    assert identity(str(weights)) == before, "or all of 11 GB is read"
    for position in (2 * SAMPLE_BYTES, 64 * SAMPLE_BYTES + 5, 125 * SAMPLE_BYTES - 1):
        change(weights / WEIGHTS, position)
        assert identity(str(weights)) != before
        change(weights / WEIGHTS, position)
    assert identity(str(weights)) == before


def test_another_size_makes_another(tmp_path: Path) -> None:
    weights = folder(tmp_path / "a", SPARSE)
    before = identity(str(weights))
    with (weights / WEIGHTS).open("ab") as content:
        content.write(b"\0")
    assert identity(str(weights)) != before
    empty = folder(tmp_path / "zeros", 0)
    seen = {identity(str(empty))}
    for size in (1, 2, SAMPLE_BYTES, SPARSE, SPARSE + 1):  # nothing but zeros, and more and more of them
        os.truncate(empty / WEIGHTS, size)
        seen.add(identity(str(empty)))
    assert len(seen) == 6


def test_every_file_counts_by_its_name(tmp_path: Path) -> None:
    one, other = folder(tmp_path / "a"), folder(tmp_path / "b", name="model-00001-of-00002.safetensors")
    assert identity(str(one)) != identity(str(other))
    before = identity(str(one))
    (one / "more.safetensors").write_bytes(b"a shard")
    with_two = identity(str(one))
    assert with_two != before
    change(one / "more.safetensors", 3)
    assert identity(str(one)) not in (before, with_two)
    (one / "more.safetensors").unlink()
    assert identity(str(one)) == before


def test_what_the_config_says_counts(tmp_path: Path) -> None:
    weights = folder(tmp_path / "a")
    before = identity(str(weights))
    (weights / "config.json").write_text('{"hidden_size": 33}')
    assert identity(str(weights)) != before


def test_bytes_that_move_from_one_file_to_the_next_count(tmp_path: Path) -> None:
    seen = set()
    for first, second in ((b"ab", b"c"), (b"a", b"bc"), (b"", b"abc"), (b"abc", b"")):
        place = tmp_path / str(len(seen))
        place.mkdir()
        (place / "a.safetensors").write_bytes(first)
        (place / "b.safetensors").write_bytes(second)
        seen.add(identity(str(place)))
    assert len(seen) == 4


def test_tokenizer_is_its_one_file(tmp_path: Path) -> None:
    place = folder(tmp_path / "a")
    (place / "tokenizer.json").write_text('{"model": {}}')
    before = identity(str(place), ("tokenizer.json",))
    assert identity(str(place)) != before
    (place / "config.json").write_text("{}")
    change(place / WEIGHTS, 0)
    shutil.copy(place / "config.json", place / "tokenizer_config.json")
    assert identity(str(place), ("tokenizer.json",)) == before
    change(place / "tokenizer.json", 4)
    assert identity(str(place), ("tokenizer.json",)) != before


def test_repository_of_the_hub_is_its_commit(tmp_path: Path) -> None:
    """As the cache has it; without network, in a process that takes it from there."""
    commit = "0123456789abcdef" * 2 + "01234567"
    repository = tmp_path / "models--owner--model"
    snapshot = repository / "snapshots" / commit / "vae"
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text(json.dumps({"hidden_size": 48, "num_hidden_layers": 2}))
    (repository / "refs").mkdir()
    (repository / "refs/main").write_text(commit)
    asked = (
        "from ray_s2v.encoders.identity import identity, numbers_in_config\n"
        "print(identity('owner/model/vae'), *numbers_in_config('owner/model/vae', ('num_hidden_layers', 'hidden_size')))"
    )
    environment = os.environ | {"HF_HUB_CACHE": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([sys.executable, "-c", asked], env=environment, capture_output=True, text=True, check=False)
    assert done.stdout.split() == [f"owner/model@{commit}/vae", "2", "48"], done.stderr


def test_numbers_in_the_config(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"hidden_size": 1024, "num_hidden_layers": 24, "activation": "gelu"}')
    assert numbers_in_config(str(tmp_path), ("num_hidden_layers", "hidden_size")) == (24, 1024)
    assert numbers_in_config(str(tmp_path), ("hidden_size",)) == (1024,)
