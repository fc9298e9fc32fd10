"""The feature store: what is put in comes out, whole or not at all, here and on S3."""

import os
import time
from pathlib import Path

import numpy as np
import pytest

from ray_s2v.data.store import STALE_S, load, remove_stale, save, stored_keys
from ray_s2v.schema import DataError

KEYS = ["ab" * 16, "ac" * 16]
LATENTS = {"latents": np.arange(24, dtype=np.float16).reshape(2, 3, 4), "video_error": ""}


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    store = str(tmp_path / "store")
    size = save(store, "video", KEYS[0], [LATENTS])
    (found,) = load(store, "video", KEYS[0]) or []
    assert np.array_equal(found["latents"], LATENTS["latents"])
    assert found["latents"].dtype == np.float16
    assert found["video_error"] == ""
    assert stored_keys(store, "video") == {KEYS[0]: size}
    assert sum(file.stat().st_size for file in tmp_path.rglob("*.parquet")) == size


def test_kinds_and_keys_are_kept_apart(tmp_path: Path) -> None:
    store = str(tmp_path)
    save(store, "video", KEYS[0], [LATENTS])
    assert load(store, "video", KEYS[1]) is None
    assert load(store, "text", KEYS[0]) is None
    assert stored_keys(store, "text") == {}


def test_store_that_is_not_there_is_empty(tmp_path: Path) -> None:
    assert stored_keys(str(tmp_path / "nowhere"), "video") == {}
    assert load(str(tmp_path / "nowhere"), "video", KEYS[0]) is None


def test_some_of_the_rows_are_loaded_alone(tmp_path: Path) -> None:
    rows = [{"audio": np.full((32, 2, 3), i, np.float16), "speech_error": ""} for i in range(5)]
    rows.append({"audio": np.full((7, 2, 3), 5, np.float16), "speech_error": ""})
    save(str(tmp_path), "speech", KEYS[0], rows)
    for wanted in (slice(1, 3), slice(4, 6), slice(0, 9), slice(None)):
        found = load(str(tmp_path), "speech", KEYS[0], wanted)
        assert [row["audio"].shape[0] for row in found] == [row["audio"].shape[0] for row in rows[wanted]]
        assert all(np.array_equal(a["audio"], b["audio"]) for a, b in zip(found, rows[wanted], strict=True))


def test_a_part_of_the_rows_does_not_read_the_file(tmp_path: Path) -> None:
    rows = [{"audio": np.zeros((32, 25, 1024), np.float16)} for _ in range(60)]  # 98 MB: two minutes of sound
    save(str(tmp_path), "speech", KEYS[0], rows)
    load(str(tmp_path), "speech", KEYS[0], slice(0, 1))
    before = _bytes_read()
    load(str(tmp_path), "speech", KEYS[0], slice(20, 23))
    assert _bytes_read() - before < 10e6


def _bytes_read() -> int:
    return int(Path("/proc/self/io").read_text().split("rchar: ")[1].split()[0])


def test_same_arrays_make_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        save(str(tmp_path / name), "video", KEYS[0], [LATENTS])
    first, second = (next((tmp_path / name).rglob("*.parquet")).read_bytes() for name in ("a", "b"))
    assert first == second


@pytest.mark.parametrize("share", [0.0, 0.3, 0.99])
def test_damaged_file_is_named_with_what_to_do(tmp_path: Path, share: float) -> None:
    save(str(tmp_path), "video", KEYS[0], [LATENTS])
    file = next(tmp_path.rglob("*.parquet"))
    whole = file.read_bytes()
    file.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(DataError, match=f"{KEYS[0]}.parquet is damaged.*delete it"):
        load(str(tmp_path), "video", KEYS[0])


def test_write_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        save(str(tmp_path), "video", KEYS[0], [LATENTS])
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
    assert stored_keys(str(tmp_path), "video") == {}


def test_half_written_files_are_no_entries_and_go_when_they_are_old(tmp_path: Path) -> None:
    save(str(tmp_path), "video", KEYS[0], [LATENTS])
    folder = next(tmp_path.rglob("*.parquet")).parent
    old, new = folder / f".{KEYS[0]}.parquet.x-1-2.part", folder / f".{KEYS[1]}.parquet.x-1-2.part"
    for part in (old, new):
        part.write_bytes(b"half")
    os.utime(old, (time.time() - STALE_S - 10,) * 2)
    assert list(stored_keys(str(tmp_path), "video")) == [KEYS[0]]
    remove_stale(str(tmp_path))
    assert not old.exists()
    assert new.exists()
    assert list(stored_keys(str(tmp_path), "video")) == [KEYS[0]]
