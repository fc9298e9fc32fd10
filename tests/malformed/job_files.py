"""Job files, sweep files and overrides."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from ray_s2v.job_file import dump_job, load_job
from ray_s2v.sweep_file import load_sweep
from tests.jobs import SETTINGS, changed
from tests.malformed.entry import Entry, Outcome
from tests.malformed.special import IN_PLACE_OF_A_FILE

GOOD = yaml.safe_dump(SETTINGS)


def _with(key: str, value: Any) -> str:
    """The good job with one setting in YAML's own words."""
    return yaml.safe_dump(changed({key: "VALUE"})).replace("VALUE", value)


def _laughs(levels: int, width: int) -> str:
    lines = ["a0: &a0 [x, x]"] + [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * width)}]" for n in range(1, levels)]
    return GOOD + "\n".join(lines)


def _merges(levels: int, width: int) -> str:
    lines = ["a0: &a0 {x: 1}"] + [f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * width)}]}}" for n in range(1, levels)]
    return GOOD + "\n".join(lines)


DOCUMENTS: dict[str, str | bytes] = {
    "nothing but a comment": "# a job\n",
    "nothing but null": "~\n",
    "a list": "- run\n- data\n",
    "a number": "42\n",
    "a text": "train my face please\n",
    "two documents": GOOD + "---\n" + GOOD,
    "two documents, the second empty": GOOD + "---\n",
    "an end in the middle": GOOD + "...\nmore: 1\n",
    "JSON": json.dumps(SETTINGS),
    "JSON cut off": json.dumps(SETTINGS)[:-7],
    "tabs": GOOD.replace("  ", "\t"),
    "TOML": '[run]\nfolder = "runs/a"\n',
    "a colon missing": GOOD.replace("run:", "run"),
    "a bracket open": GOOD + "x: [1, 2\n",
    "a quote open": GOOD + "x: 'abc\n",
    "an unknown anchor": GOOD + "x: *nowhere\n",
    "an anchor within itself": GOOD + "x: &x [*x]\n",
    "an anchor within itself, a mapping": GOOD + "x: &x {y: *x}\n",
    "a billion laughs": _laughs(10, 10),
    "a billion laughs, wide": _laughs(4, 1000),
    "a billion merges": _merges(10, 10),
    "a merge of a number": GOOD + "<<: 3\n",
    "nested 5000 deep, lists": GOOD + "x: " + "[" * 5000 + "]" * 5000,
    "nested 5000 deep, mappings": GOOD + "x: " + "{a: " * 5000 + "1" + "}" * 5000,
    "nested 500 deep by indent": GOOD + "x:\n" + "".join(f"{'  ' * n}a:\n" for n in range(1, 500)),
    "a key given twice": GOOD + "run: {folder: b}\n",
    "a key given twice, deep": GOOD.replace("folder: runs/a", "folder: runs/a\n  folder: b"),
    "a list as a key": GOOD + "? [a, b]\n: 1\n",
    "a mapping as a key": GOOD + "? {a: b}\n: 1\n",
    "a number as a key": GOOD + "3: 1\n",
    "twenty thousand keys": GOOD + "x: {" + ", ".join(f"k{n}: 1" for n in range(20_000)) + "}\n",
    "null as a key": GOOD + "~: 1\n",
    "a date as a key": GOOD + "2001-01-01: 1\n",
    "a merge key as text": GOOD + "'<<': {folder: x}\n",
    "UTF-8 with a mark": b"\xef\xbb\xbf" + GOOD.encode(),
    "UTF-16": GOOD.encode("utf-16"),
    "UTF-32": GOOD.encode("utf-32"),
    "Latin-1": GOOD.replace("runs/a", "größe").encode("latin-1"),
    "a null byte": GOOD.replace("runs/a", "ru\0ns").encode(),
    "control characters": GOOD.replace("runs/a", "r\x07\x1b[31m").encode(),
    "bytes of a program": b"\x7fELF\x02\x01\x01" + bytes(range(256)) * 40,
    "a gzip": b"\x1f\x8b\x08\x00" + bytes(range(256)),
    "a mark of the wrong end": b"\xff\xfe" + GOOD.encode(),
    "four MiB of spaces": b" " * (4 << 20),
    "four MiB of a list": b"x: [" + b"1, " * (1 << 20) + b"]",
    "carriage returns": GOOD.replace("\n", "\r\n"),
    "line separators of Unicode": GOOD.replace("\n", "\u2028"),
    "a directive of another YAML": "%YAML 9.9\n---\n" + GOOD,
    "an unknown directive": "%RUN rm\n---\n" + GOOD,
}
TAGS = {
    "a tag of a Python object": "!!python/object/apply:os.system ['touch RAN']",
    "a tag of a Python name": "!!python/name:os.system",
    "a tag of a Python module": "!!python/module:os",
    "a tag of a new Python object": "!!python/object/new:subprocess.Popen [[touch, RAN]]",
    "a tag of a tuple": "!!python/tuple [1, 2]",
    "a tag of our own": "!job x",
    "a tag of bytes": "!!binary aGVsbG8=",
    "a tag of bytes that are none": "!!binary '@@@@'",
    "a tag of a set": "!!set {a}",
    "a tag of an ordered mapping": "!!omap [a: 1]",
    "a tag of pairs": "!!pairs [a: 1]",
    "a tag of a number on a text": "!!int many",
    "a tag of a number on a list": "!!int [1]",
    "a tag of a float on nothing": "!!float",
    "a tag of a date on a text": "!!timestamp soon",
    "a tag of a mapping on a text": "!!map x",
}
VALUES = {
    "an expression of a shell": "$(touch RAN)",
    "an expression of a template": "'{{ 7 * 7 }}'",
    "an expression of Python": "\"__import__('os').system('touch RAN')\"",
    "an escaped null": r'"a\0b"',
    "half a character": r'"\ud800"',
    "turned writing": r'"\u202etxt.exe"',
    "a hundred thousand letters": "x" * 100_000,
    "true": "true",
    "a date": "2001-12-14t21:59:43.10-05:00",
    "a date that is none": "2001-99-99",
    "a list": "[a]",
    "a mapping": "{a: b}",
    "nothing": "",
    "an empty text": "''",
}
NUMBERS = {
    "infinite": ".inf",
    "less than infinite": "-.inf",
    "no number": ".nan",
    "5000 hexadecimal digits": "0x" + "f" * 5000,
    "5000 digits": "9" * 5000,
    "5000 sixties": ":".join(["59"] * 5000),
    "ten to the 999": "1.0e+999",
    "beyond 64 bits": "18446744073709551617",
    "below zero": "-1",
    "zero": "0",
    "a half": "0.5",
    "digits of another script": "٣",
    "underscores": "1_0",
    "true": "yes",
    "a text": "many",
    "sixties": "1:30",
    "octal": "0o17",
    "a list": "[1]",
}
SETTINGS_IN_JOB = {
    "run.seed": "0",
    "lora.rank": "16",
    "training.learning_rate": "1.0e-4",
}
ODD_SETTINGS: dict[str, dict[str, Any]] = {
    "sources as a mapping": {"data.sources": {"path": "x"}},
    "sources as a text": {"data.sources": "clips"},
    "no sources": {"data.sources": []},
    "a source that is null": {"data.sources": [None]},
    "ten thousand sources of one name": {"data.sources": [{"path": "x"}] * 10_000},
    "a scheme that is none": {"data.sources": [{"path": "ftp://x/y", "name": "a"}], "encoders": {}},
    "a section as a list": {"training": [1, 2]},
    "a section as null": {"lora": None},
    "a webhook's address in the file": {"webhooks": [{"url_variable": "https://discord.com/api/webhooks/1/SECRET"}]},
    "a scene's name that leads out": {
        "validation": {"every": 100, "scenes": [{"name": "../../x", "picture": "p", "speech": "s", "prompt": "p"}]}
    },
    "a scene's name with a null": {
        "validation": {"every": 100, "scenes": [{"name": "a\0b", "picture": "p", "speech": "s", "prompt": "p"}]}
    },
    "a size of a picture beyond all": {"sampling": {"size": "99999999999999999999x64"}},
    "a size of 5000 digits": {"sampling": {"size": "9" * 5000 + "x64"}},
    "a repository's name that leads out": {"hub": {"repo_id": "../../etc/passwd"}},
    "a project's code to be trusted": {"model.trust_remote_code": True},
    "an expression among targets": {"lora": {"targets": ["(a+)+$"]}},
    "a name of a source that leads out": {"data.sources": [{"path": "x", "name": "../x"}]},
    "a source called by a null": {"data.sources": [{"path": "x", "name": "a\0"}]},
    "a resolution of other digits": {"data.sources": [{"path": "x", "resolution": "٨٣٢x480"}]},
    "resuming from a null": {"checkpoint": {"resume": "a\0b"}},
    "layers beyond all": {"tread": {"routes": [{"selection_ratio": 0.5, "start_layer_idx": -(10**30), "end_layer_idx": 10**30}]}},
}
OVERRIDES = {
    "without a key": "=1",
    "without a value": "run.seed",
    "of dots": "...=1",
    "of a list's item far away": "data.sources.99999999999999999999.path=x",
    "of an item in other digits": "data.sources.٠.path=x",
    "below a value": "run.folder.x=1",
    "with a tag": "run.folder=!!python/object/apply:os.system ['touch RAN']",
    "of a billion laughs": "x=" + _laughs(10, 10).replace("\n", " "),
    "that is no YAML": "run.folder=[",
    "of half a character": "run.folder=\udcff",
    "whose key is half a character": "run.\udcff=1",
    "of 5000 levels": ".".join(["a"] * 5000) + "=1",
    "nested 5000 deep": "x=" + "[" * 5000,
}
SWEEP: dict[str, Any] = {"job": "job.yaml", "folder": "sweep", "search": "random", "trials": 3, "space": {"lora.rank": {"values": [1, 2]}}}
SWEEPS: dict[str, dict[str, Any]] = {
    "of itself": {"job": "sweep.yaml"},
    "of a job that is not there": {"job": "gone.yaml"},
    "of a folder": {"job": "."},
    "of a null": {"job": "a\0b"},
    "without end": {"search": "grid", "space": {f"lora.x{n}": {"values": list(range(100))} for n in range(9)}},
    "of infinite numbers": {"space": {"training.learning_rate": {"uniform": [0, float("inf")]}}},
    "of a range of no number": {"space": {"training.learning_rate": {"log_uniform": [float("nan"), 1.0]}}},
    "of a range below zero": {"space": {"training.learning_rate": {"log_uniform": [-1.0, 1.0]}}},
    "of a space that is a list": {"space": [1]},
    "of no space": {"space": {}},
    "of a setting that is none": {"space": {"a.b.c": {"values": [1]}}},
}


def _read(given: Path, overrides: tuple[str, ...] = ()) -> Outcome:
    job = load_job(str(given / "job.yaml"), overrides)
    again = given.parent / "own" / "again.yaml"
    again.write_text(dump_job(job), encoding="utf-8")
    assert load_job(str(again)) == job, "another job after it was written down"
    return Outcome("taken", "it says what a job may say")


def _read_sweep(given: Path) -> Outcome:
    load_sweep(str(given / "sweep.yaml"))
    return Outcome("taken", "it says what a sweep may say")


def _put(folder: Path, content: str | bytes) -> None:
    (folder / "job.yaml").write_bytes(content if isinstance(content, bytes) else content.encode())


def _put_sweep(folder: Path, changes: dict[str, Any]) -> None:
    _put(folder, GOOD)
    (folder / "sweep.yaml").write_text(yaml.safe_dump(SWEEP | changes))


def entries() -> Iterator[Entry]:
    for name, maker in IN_PLACE_OF_A_FILE.items():
        yield Entry("job", name, lambda folder, maker=maker: maker(folder / "job.yaml"), _read)  # type: ignore[misc]
    contents = DOCUMENTS | {name: _with("run.folder", value) for name, value in TAGS.items()}
    contents |= {f"a folder that is {name}": _with("run.folder", value) for name, value in VALUES.items()}
    contents |= {f"{key} {name}": _with(key, value) for key in SETTINGS_IN_JOB for name, value in NUMBERS.items()}
    contents |= {name: yaml.safe_dump(changed(changes)) for name, changes in ODD_SETTINGS.items()}
    for name, content in contents.items():
        yield Entry("job", name, partial(_put, content=content), _read)
    for name, text in OVERRIDES.items():
        yield Entry("override", name, partial(_put, content=GOOD), partial(_read, overrides=(text,)))
    for name, settings in SWEEPS.items():
        yield Entry("sweep", name, partial(_put_sweep, changes=settings), _read_sweep)
