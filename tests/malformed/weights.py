"""Checkpoints of networks, adapters, the small decoder, and the folders of a run that it goes on from."""

from __future__ import annotations

import json
import os
import shutil
import struct
import tempfile
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save, save_file

from ray_s2v.config.job import Job
from ray_s2v.encoders.speech import SpeechEncoder
from ray_s2v.encoders.text import load_tokenizer
from ray_s2v.encoders.tiny_decoder import load_tiny_decoder
from ray_s2v.job_file import dump_job
from ray_s2v.model.checkpoint import check_checkpoint, load_model
from ray_s2v.model.lora import ADAPTER_FILE, fill_adapter, load_adapter, lora_config, save_adapter, with_lora
from ray_s2v.model.transformer import WanS2VTransformer3DModel
from ray_s2v.training.checkpoint import State, load_state, save_checkpoint
from ray_s2v.training.contents import CONTENTS, as_text, measured
from ray_s2v.training.progress import Progress, load_progress
from ray_s2v.training.starting_point import check_same_network, starting_point
from tests.malformed.entry import Entry, Outcome
from tests.spawn.zero_runs import tiny_job
from tests.tiny import tiny_network

FILE = "diffusion_pytorch_model.safetensors"
LORA = lora_config(4, 4, 0.0, ["to_q"], "blocks")
PICKLE = b"cos\nsystem\n(S'touch RAN'\ntR."
SPEECH = Path(__file__).parents[1] / "golden/data/wav2vec_tiny"


@cache
def network_files() -> dict[str, bytes]:
    with tempfile.TemporaryDirectory() as folder:
        tiny_network().save_pretrained(folder)
        return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


@cache
def adapter() -> dict[str, torch.Tensor]:
    model = with_lora(tiny_network(), LORA, 0)
    return {name.replace(".default.", "."): p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}


def _header(describe: Callable[[dict[str, Any]], object], data: bytes = bytes(64)) -> bytes:
    """A safetensors file whose header is changed."""
    header: dict[str, Any] = {
        "a": {"dtype": "F32", "shape": [2, 4], "data_offsets": [0, 32]}, "b": {"dtype": "F32", "shape": [8], "data_offsets": [32, 64]}
    }  # fmt: skip
    describe(header)
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


HEADERS: dict[str, Callable[[], bytes]] = {
    "empty": lambda: b"", "seven bytes": lambda: bytes(7), "a header longer than the file": lambda: struct.pack("<Q", 1 << 20) + b"{}",
    "a header beyond all": lambda: b"\xff" * 8 + b"{}", "a header of nothing": lambda: bytes(8), "a header that is no JSON": lambda: struct.pack("<Q", 4) + b"{\"a\"",
    "a header that is a list": lambda: struct.pack("<Q", 2) + b"[]", "a header 10000 deep": lambda: struct.pack("<Q", 20_000) + b"[" * 20_000,
    "a header that is not UTF-8": lambda: struct.pack("<Q", 4) + b"{\xff\xfe}", "offsets that overlap": lambda: _header(lambda h: h["b"].update(data_offsets=[16, 48])),
    "offsets beyond the file": lambda: _header(lambda h: h["b"].update(data_offsets=[32, 1 << 60])), "offsets the wrong way round": lambda: _header(lambda h: h["b"].update(data_offsets=[64, 32])),
    "offsets below zero": lambda: _header(lambda h: h["b"].update(data_offsets=[-32, 64])), "a gap": lambda: _header(lambda h: h.pop("a")),
    "a shape of more than there is": lambda: _header(lambda h: h["a"].update(shape=[1 << 40, 1 << 40])), "a shape below zero": lambda: _header(lambda h: h["a"].update(shape=[-2, -4])),
    "an unknown kind of number": lambda: _header(lambda h: h["a"].update(dtype="F99")), "no shape": lambda: _header(lambda h: h["a"].pop("shape")),
    "words beside that are no text": lambda: _header(lambda h: h.update(__metadata__={"a": [1]})), "data cut off": lambda: _header(lambda h: None, bytes(40)),
    "data behind the end": lambda: _header(lambda h: None, bytes(99)), "a pickle": lambda: PICKLE, "a zip of torch": lambda: b"PK\x03\x04" + bytes(100),
    "other tensors": lambda: save({"a": torch.zeros(2)}), "text": lambda: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n",
}  # fmt: skip
CONFIGS: dict[str, bytes | dict[str, Any]] = {
    "empty": b"", "no JSON": b"{", "not UTF-8": b"\xff\xfe{}", "a list": b"[]", "a number": b"3", "null": b"null", "5000 deep": b'{"a":' * 5000, "a pickle": PICKLE,
    "without its sizes": {}, "no heads": {"num_attention_heads": 0}, "heads below zero": {"num_attention_heads": -2}, "heads in words": {"num_attention_heads": "two"},
    "half a head": {"num_attention_heads": 2.5}, "layers beyond all": {"num_layers": 10**9}, "no layers": {"num_layers": 0}, "layers in words": {"num_layers": "many"},
    "a width beyond all": {"attention_head_dim": 10**12}, "injected layers that are not there": {"audio_inject_layers": [99]}, "injected layers in words": {"audio_inject_layers": "all"},
    "code of its own": {"auto_map": {"AutoModel": "evil.Model"}, "_class_name": "os.system", "trust_remote_code": True}, "another official network": {"dim": 5120, "num_heads": 0},
    "an official one in words": {"dim": "wide", "num_heads": 2}, "null for a number": {"ffn_dim": None}, "not a number": b'{"num_layers": NaN, "ffn_dim": Infinity}',
}  # fmt: skip
INDEXES: dict[str, bytes] = {
    "that is no JSON": b"{", "that is a list": b"[]", "without its map": b"{}", "whose map is a list": b'{"weight_map": []}', "of a file that is not there": b'{"weight_map": {"a": "gone.safetensors"}}',
    "of numbers": b'{"weight_map": {"a": 3}}', "that climbs out": b'{"weight_map": {"a": "../../../../etc/passwd"}}', "of /etc/passwd": b'{"weight_map": {"a": "/etc/passwd"}}', "of no files": b'{"weight_map": {}}',
}  # fmt: skip
ADAPTERS: dict[str, dict[str, Any] | bytes] = {
    "no JSON": b"{", "a list": b"[]", "empty": b"", "another method": {"peft_type": "IA3"}, "an unknown method": {"peft_type": "EVIL"}, "no method": {"peft_type": None},
    "a rank of nothing": {"r": 0}, "a rank below zero": {"r": -1}, "a rank in words": {"r": "high"}, "a rank beyond all": {"r": 10**12}, "layers that are not there": {"target_modules": ["nowhere"]},
    "an expression that never ends": {"target_modules": "(a+)+$"}, "an expression that is none": {"target_modules": "("}, "code to be imported": {"megatron_config": {"a": 1}, "megatron_core": "evil"},
    "code of its own": {"auto_mapping": {"base_model_class": "Popen", "parent_library": "subprocess"}}, "settings that are unknown": {"evil": True}, "an alpha that is no number": {"lora_alpha": "x"},
}  # fmt: skip
PROGRESS: dict[str, bytes] = {
    "no JSON": b"{", "empty": b"", "a list": b"[]", "a step in words": b'{"step": "four", "plan": "p"}', "a step below zero": b'{"step": -4, "plan": "p"}', "half a step": b'{"step": 4.5, "plan": "p"}',
    "a plan that is a number": b'{"step": 4, "plan": 3}', "more than there is": b'{"step": 4, "plan": "p", "evil": 1}', "a pickle": PICKLE, "5000 deep": b"[" * 5000, "not UTF-8": b"\xff",
}  # fmt: skip


def _put(folder: Path, files: dict[str, bytes]) -> None:
    for name, content in files.items():
        (folder / name).write_bytes(content)


def _network(folder: Path, name: str, content: Callable[[], bytes] | bytes | dict[str, Any]) -> None:
    good = network_files()
    if isinstance(content, dict):
        content = json.dumps((json.loads(good["config.json"]) if "dim" not in content else {}) | content).encode()
    _put(folder, good | {name: content() if callable(content) else content})


def _read_network(given: Path) -> Outcome:
    check_checkpoint(WanS2VTransformer3DModel, str(given))
    load_model(WanS2VTransformer3DModel, str(given), None, lambda _: torch.device("cpu"))
    return Outcome("taken", "it holds the network's tensors; other words are left aside")


def _speech(folder: Path, content: Callable[[], bytes]) -> None:
    shutil.copy(SPEECH / "config.json", folder)
    (folder / "model.safetensors").write_bytes(content())


def _read_speech(given: Path) -> Outcome:
    SpeechEncoder(given)
    return Outcome("taken")


def _read_decoder(given: Path) -> Outcome:
    load_tiny_decoder(next(given.iterdir()))
    return Outcome("taken")


def _read_tokenizer(given: Path) -> Outcome:
    load_tokenizer(given)
    return Outcome("taken", "it is a tokenizer")


def _adapter(folder: Path, content: dict[str, Any] | bytes | None, tensors: Callable[[], bytes] | None = None) -> None:
    save_adapter(folder, adapter(), LORA)
    config = folder / "adapter_config.json"
    if content is None:
        config.unlink()
    else:
        config.write_bytes(content if isinstance(content, bytes) else json.dumps(json.loads(config.read_text()) | content).encode())
    if tensors:
        (folder / ADAPTER_FILE).write_bytes(tensors())


def _read_adapter(given: Path) -> Outcome:
    tensors, config = load_adapter(given)
    fill_adapter(with_lora(tiny_network(), config, 0), tensors)
    return Outcome("taken", "it fits the network")


def _job(run: Path) -> Job:
    job = tiny_job(2, 1)
    return job.model_copy(update={"run": job.run.model_copy(update={"folder": str(run)})})


def _run(folder: Path, change: Callable[[Path], object], contents_say_so: bool) -> None:
    """A run that has got to step 4, whose checkpoint is changed, with its contents.json or without that knowing."""
    moments = {f"{name}.{kind}": torch.zeros_like(tensor) for name, tensor in adapter().items() for kind in ("exp_avg", "exp_avg_sq")}
    job = dump_job(_job(Path("run")))
    checkpoint = save_checkpoint(folder / "checkpoints", Progress(4, "p"), State(adapter(), moments), LORA, job, keep=3)
    change(checkpoint)
    if contents_say_so and (checkpoint / CONTENTS).is_file():
        (checkpoint / CONTENTS).unlink()
        (checkpoint / CONTENTS).write_bytes(as_text(measured(checkpoint)))


def _read_run(given: Path) -> Outcome:
    job = _job(given)
    start = starting_point(job, lambda _: None)
    if not start:
        return Outcome("passed over", "no complete checkpoint: the run begins")
    progress = load_progress(start)
    check_same_network(job, start)
    state = load_state(start)
    fill_adapter(with_lora(tiny_network(), LORA, 0), state.adapter)
    return Outcome("taken", f"the run goes on from step {progress.step}")


def _runs() -> Iterator[tuple[str, Callable[[Path], object]]]:
    for name, content in PROGRESS.items():
        yield f"progress: {name}", lambda folder, content=content: (folder / "progress.json").write_bytes(content)  # type: ignore[misc]
    for name in ("progress.json", "job.yaml", ADAPTER_FILE, "adapter_config.json", "optimizer.safetensors"):
        yield f"{name} missing", lambda folder, name=name: (folder / name).unlink()  # type: ignore[misc]
    for name in (ADAPTER_FILE, "optimizer.safetensors"):
        yield f"{name} cut off", lambda folder, name=name: (folder / name).write_bytes((folder / name).read_bytes()[:-99])  # type: ignore[misc]
        yield f"{name} a pickle", lambda folder, name=name: (folder / name).write_bytes(PICKLE)  # type: ignore[misc]
    yield "job.yaml with a tag", lambda folder: (folder / "job.yaml").write_text("run: !!python/object/apply:os.system ['touch RAN']\n")
    yield "a file that carries a checkpoint's name", lambda folder: (shutil.rmtree(folder), folder.write_text("x"))
    yield "an empty folder that carries a checkpoint's name", lambda folder: (shutil.rmtree(folder), folder.mkdir())
    yield "a half-written one", lambda folder: folder.rename(folder.with_name(f".partial-{folder.name}"))
    yield "a link to nothing that carries a checkpoint's name", lambda folder: (shutil.rmtree(folder), folder.symlink_to("gone"))
    yield (
        "names that look like checkpoints",
        lambda folder: [(folder.parent / name).mkdir() for name in ("step_٠٠٠٠٠٩", "step_9", "step_-00009")],
    )
    yield "an adapter of another rank", lambda folder: _another_rank(folder / ADAPTER_FILE)


def _contents() -> Iterator[tuple[str, Callable[[Path], object]]]:
    for name in (ADAPTER_FILE, "progress.json"):
        yield f"{name} missing", lambda folder, name=name: (folder / name).unlink()  # type: ignore[misc]
        yield f"{name} longer", lambda folder, name=name: (folder / name).write_bytes((folder / name).read_bytes() + b" ")  # type: ignore[misc]
    yield "a byte of the adapter flipped", lambda folder: _flip(folder / ADAPTER_FILE)
    for name, content in {
        "missing": None,
        "empty": b"",
        "a pickle": PICKLE,
        "a list": b"[]",
        "of no files": b"{}",
        "5000 deep": b"[" * 5000,
        "not UTF-8": b"\xff",
        "that names a file outside": b'{"../../x": {"bytes": 1, "sha256": "' + b"0" * 64 + b'"}}',
        "with sizes in words": b'{"progress.json": {"bytes": "four", "sha256": "' + b"0" * 64 + b'"}}',
    }.items():
        yield f"contents.json {name}", lambda folder, content=content: _replace(folder / CONTENTS, content)  # type: ignore[misc]
    yield "contents.json a folder", lambda folder: ((folder / CONTENTS).unlink(), (folder / CONTENTS).mkdir())
    yield "contents.json a pipe", lambda folder: ((folder / CONTENTS).unlink(), os.mkfifo(folder / CONTENTS))


def _replace(file: Path, content: bytes | None) -> None:
    file.unlink()
    if content is not None:
        file.write_bytes(content)


def _flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


def _another_rank(file: Path) -> None:
    save_file({name: torch.cat([tensor, tensor]) for name, tensor in load_file(file).items()}, file)


def entries() -> Iterator[Entry]:
    for title, content in HEADERS.items():
        yield Entry("weights", title, partial(_network, name=FILE, content=content), _read_network)
        yield Entry("speech encoder", title, partial(_speech, content=content), _read_speech)
        yield Entry("adapter", title, partial(_adapter, content={}, tensors=content), _read_adapter)
    for name in ("taew2_1.safetensors", "taew2_1.pth"):
        for title in ("empty", "a header beyond all", "a pickle", "a zip of torch", "other tensors", "text"):
            make = partial(_put_one, name=name, content=HEADERS[title])
            yield Entry("decoder", f"{name}: {title}", make, _read_decoder)
    for title, config in CONFIGS.items():
        yield Entry("config.json", title, partial(_network, name="config.json", content=config), _read_network)
    for title, index in INDEXES.items():
        yield Entry("index", title, partial(_network, name=f"{FILE}.index.json", content=index), _read_network)
    for title, config in (("missing", None), *ADAPTERS.items()):
        yield Entry("adapter_config.json", title, partial(_adapter, content=config), _read_adapter)
    for title, words in (
        ("empty", b""),
        ("no JSON", b"{"),
        ("a list", b"[]"),
        ("of no kind", b"{}"),
        ("a pickle", PICKLE),
        ("5000 deep", b"[" * 5000),
    ):
        yield Entry("tokenizer", title, partial(_put, files={"tokenizer.json": words}), _read_tokenizer)
    for title, change in _runs():
        yield Entry("run", f"{title}, as contents.json says", partial(_run, change=change, contents_say_so=True), _read_run)
    for title, change in _contents():
        yield Entry("run", title, partial(_run, change=change, contents_say_so=False), _read_run)


def _put_one(folder: Path, name: str, content: Callable[[], bytes]) -> None:
    (folder / name).write_bytes(content())
