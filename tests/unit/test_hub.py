"""Pushing to the hub: what arrives, what is told when it does not, and that it ends; against a hub of our own over HTTP."""

import hashlib
import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from ray_s2v.config.hub import Hub
from ray_s2v.config.job import Job
from ray_s2v.job_file import dump_job, load_job
from ray_s2v.push import _main
from ray_s2v.reporting.hub import NotPushed, Patience, Pushes, check_hub, push_adapter, push_folder
from tests.checkpoints import checkpoint
from tests.hub_server import TOKEN, Failure, HubServer, hub_server
from tests.jobs import changed, load, mistakes

REPO = "someone/talking-lora"
HUB = Hub(repo_id=REPO)
SHORT = Patience(attempts=4, first_wait_s=0.02, silence_s=10.0, total_s=60.0)
BIG = 50_000  # bytes of the adapter, which goes as a large file


@pytest.fixture
def server() -> Iterator[HubServer]:
    with hub_server() as hub:
        yield hub


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Small files and large ones, one in a folder, one empty, with every byte in them."""
    made = tmp_path / "made"
    (made / "validation").mkdir(parents=True)
    (made / "README.md").write_text("---\ntags:\n- lora\n---\n# A card\n")
    (made / "adapter_model.safetensors").write_bytes(bytes(range(256)) * (BIG // 256))
    (made / "validation/a b ü.mp4").write_bytes(bytes(reversed(range(256))) * 20)
    (made / "job.yaml").write_bytes(b"")
    return made


def write_adapter(folder: Path, value: float) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    save_file({"base_model.model.x.lora_A.weight": np.full((4, 1000), value, np.float32)}, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 4}))


@pytest.fixture
def job(tmp_path: Path) -> Job:
    """Of a run that has trained 20 steps, with a checkpoint of 10."""
    run = tmp_path / "run"
    checkpoint(run / "checkpoints", 10)
    write_adapter(run / "adapter", 2.0)
    lines = [json.dumps({"step": step, "loss": 1 / (step + 1), "clip_ids": ["a", f"b{step}"], "step_s": 1.0}) for step in range(20)]
    (run / "steps.jsonl").write_text("\n".join(lines) + "\n")
    made = load(tmp_path, changed({"run.folder": str(run)}))
    (run / "job.yaml").write_text(dump_job(made))
    return made


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_what_arrives_is_what_is_in_the_folder(server: HubServer, folder: Path) -> None:
    url = push_folder(folder, HUB, "a first commit", SHORT)
    repository = server.repositories[REPO]
    assert repository.branches["main"] == files_of(folder)
    assert url.startswith(f"{server.url}/{REPO}/commit/")
    assert repository.settings["visibility"] == "private"
    assert repository.commits == ["a first commit"]
    large = {hashlib.sha256(data).hexdigest() for data in files_of(folder).values() if len(data) > 2000}
    assert len(large) == 2
    assert server.objects.keys() == large


def test_second_push_sends_what_has_changed(server: HubServer, folder: Path) -> None:
    push_folder(folder, HUB, "first", SHORT)
    push_folder(folder, HUB, "the same again", SHORT)
    assert server.repositories[REPO].commits == ["first"]
    (folder / "job.yaml").write_text("changed")
    (folder / "adapter_model.safetensors").write_bytes(b"x" * BIG)
    push_folder(folder, HUB, "second", SHORT)
    assert server.repositories[REPO].commits == ["first", "second"]
    assert server.repositories[REPO].branches["main"] == files_of(folder)
    assert len([request for request in server.requests if request.startswith("PUT")]) == 3


def test_public_and_on_a_branch_of_its_own(server: HubServer, folder: Path) -> None:
    push_folder(folder, Hub(repo_id=REPO, private=False, revision="tries"), "m", SHORT)
    assert server.repositories[REPO].settings["visibility"] == "public"
    assert server.repositories[REPO].branches == {"main": {}, "tries": files_of(folder)}


@pytest.mark.parametrize(
    "failure",
    [
        Failure("/repos/create", 500, times=2),
        Failure("/repos/create", 429, times=2),
        Failure("/preupload", 503, times=1),
        Failure("/lfs/", 500, times=1),
        Failure("/commit/", 502, times=2),
        Failure("/validate-yaml", 500, times=1),
    ],
    ids=lambda failure: f"{failure.path} {failure.status}",
)
def test_failures_that_pass_are_tried_again(server: HubServer, folder: Path, failure: Failure) -> None:
    server.failures.append(failure)
    push_folder(folder, HUB, "m", SHORT)
    assert server.repositories[REPO].branches["main"] == files_of(folder)
    assert len(server.repositories[REPO].commits) == 1


def test_failures_that_stay_end_after_some_attempts(server: HubServer, folder: Path) -> None:
    server.failures.append(Failure("/repos/create", 500))
    with pytest.raises(NotPushed, match=r"500.*the last of 4 attempts"):
        push_folder(folder, HUB, "m", SHORT)
    assert server.requests == ["POST /api/repos/create"] * 4


@pytest.mark.parametrize("status", [400, 401, 403, 404])
def test_refusals_are_not_tried_again(server: HubServer, folder: Path, status: int) -> None:
    server.failures.append(Failure("/commit/", status))
    with pytest.raises(NotPushed) as caught:
        push_folder(folder, HUB, "m", SHORT)
    assert TOKEN not in str(caught.value)
    assert "no: Bearer <HF_TOKEN>" in str(caught.value)  # what the server said
    assert len([request for request in server.requests if "/commit/" in request]) == 1


def test_wrong_token_is_refused_and_never_shown(
    server: HubServer, job: Job, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    planted = "hf_AnotherTokenThatIsNotTaken"
    monkeypatch.setenv("HF_TOKEN", planted)
    monkeypatch.setenv("HF_DEBUG", "1")
    notes: list[str] = []
    pushes = Pushes(job, HUB, notes.append, SHORT)
    pushes.finish(Path(job.run.folder) / "adapter")
    assert len(notes) == 1
    assert notes[0].startswith("not pushed: ")
    assert "401" in notes[0]
    assert notes[0].endswith(f"; python -m ray_s2v.push {job.run.folder} {REPO} pushes it")
    told = capfd.readouterr()
    for text in (*notes, told.out, told.err):
        assert planted not in text
    assert not any(planted.encode() in data for data in files_of(Path(job.run.folder)).values())


def test_no_hub_there(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{free.getsockname()[1]}")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    with pytest.raises(NotPushed, match=r"refused.*the last of 2 attempts"):
        push_folder(folder, HUB, "m", Patience(attempts=2, first_wait_s=0.01))


@pytest.mark.parametrize(
    ("path", "patience"), [("/repos/create", Patience(2, 0.01, silence_s=0.5)), ("/lfs/", Patience(2, 0.01, total_s=3.0))]
)
def test_hub_that_hangs_is_left(server: HubServer, folder: Path, path: str, patience: Patience) -> None:
    """Within a request by the limit of silence, and everything by the limit of all attempts."""
    server.failures.append(Failure(path, 0))
    started = time.monotonic()
    with pytest.raises(NotPushed, match=r"no end after|Timeout"):
        push_folder(folder, HUB, "m", patience)
    assert time.monotonic() - started < 30


def test_checkpoints_and_the_end_are_pushed_beside_training(server: HubServer, job: Job) -> None:
    run, notes = Path(job.run.folder), []
    pushes = Pushes(job, Hub(repo_id=REPO, push="checkpoints"), notes.append, SHORT)
    pushes.show({"step": 9, "loss": 1.0})
    pushes.show({"checkpoint": 10})
    deadline = time.monotonic() + 60
    while not notes:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    main = server.repositories[REPO].branches["main"]
    assert main["adapter_model.safetensors"] == (run / "checkpoints/step_000010/adapter_model.safetensors").read_bytes()
    assert b"| steps | 10 of 8 clips |" in main["README.md"]
    pushes.finish(run / "adapter")
    assert server.repositories[REPO].commits == ["LoRA after 10 steps", "LoRA after the last step"]
    assert main == files_of(run / "hub")
    assert main["adapter_model.safetensors"] == (run / "adapter/adapter_model.safetensors").read_bytes()
    assert b"| steps | 20 of 8 clips |" in main["README.md"]
    assert [note.split("/commit/")[0] for note in notes] == [f"pushed to {server.url}/{REPO}"] * 2


def test_of_checkpoints_that_wait_the_newest_goes(server: HubServer, job: Job) -> None:
    server.failures.append(Failure("/repos/create", 0, times=1))
    pushes = Pushes(job, Hub(repo_id=REPO, push="checkpoints"), lambda _: None, Patience(4, 0.01, silence_s=1.5))
    pushes.show({"checkpoint": 10})
    deadline = time.monotonic() + 60
    while not server.requests:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    for _ in range(3):
        pushes.show({"checkpoint": 10})
    pushes.finish(Path(job.run.folder) / "adapter")
    assert server.repositories[REPO].commits == ["LoRA after 10 steps", "LoRA after the last step"]
    assert server.requests.count("POST /api/repos/create") == 3  # the one that hung among them


def test_final_alone_unless_asked_and_pruned_checkpoints_are_no_failure(server: HubServer, job: Job) -> None:
    notes: list[str] = []
    Pushes(job, HUB, notes.append, SHORT).show({"checkpoint": 10})
    pushes = Pushes(job, Hub(repo_id=REPO, push="checkpoints"), notes.append, SHORT)
    pushes.show({"checkpoint": 5})
    pushes.finish(Path(job.run.folder) / "adapter")
    assert server.repositories[REPO].commits == ["LoRA after the last step"]
    assert len(notes) == 1


def test_run_without_its_adapter_is_told(server: HubServer, job: Job) -> None:
    notes: list[str] = []
    Pushes(job, HUB, notes.append, SHORT).finish(Path(job.run.folder) / "nothing")
    assert len(notes) == 1
    assert "not pushed: [Errno 2] No such file" in notes[0]


def test_newest_samples_go_with_it(server: HubServer, job: Job) -> None:
    run = Path(job.run.folder)
    for step in (5, 10, 20):
        (run / f"validation/step_{step:06d}").mkdir(parents=True)
        (run / f"validation/step_{step:06d}/face.mp4").write_bytes(b"%d" % step)
    records = [{"step": step, "videos": {"face": f"validation/step_{step:06d}/face.mp4"}, "failed": {}} for step in (5, 10, 20)]
    records.append({"step": 30, "videos": {}, "failed": {"face": "no memory"}})
    (run / "validation.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    push_adapter(run, run / "checkpoints/step_000010", job, HUB, 10, SHORT)
    main = server.repositories[REPO].branches["main"]
    assert main["validation/face.mp4"] == b"10"
    assert b"Samples after 10 steps:" in main["README.md"]
    push_adapter(run, run / "adapter", job, HUB, None, SHORT)
    assert main["validation/face.mp4"] == b"20"


def test_command_makes_up_for_a_push(server: HubServer, job: Job, capsys: pytest.CaptureFixture[str]) -> None:
    run = Path(job.run.folder)
    assert _main([str(run), REPO, "hub.private=false"]) == 0
    assert server.repositories[REPO].settings["visibility"] == "public"
    assert server.repositories[REPO].branches["main"] == files_of(run / "hub")
    assert capsys.readouterr().out.startswith(f"pushed to {server.url}/{REPO}/commit/")
    (run / "adapter").rename(run / "other")
    assert _main([str(run), REPO]) == 0
    assert server.repositories[REPO].commits == ["LoRA after the last step", "LoRA after 10 steps"]


def test_command_tells_mistakes(
    server: HubServer, job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = job.run.folder
    empty = tmp_path / "empty"
    empty.mkdir()
    (empty / "job.yaml").write_text(Path(run, "job.yaml").read_text())
    for arguments, said in (
        ([run, "no-owner"], "hub.repo_id: must read owner/name (it is 'no-owner')"),
        ([run, REPO, "lora.rank=3"], "only settings of hub"),
        ([str(tmp_path), REPO], "holds no job.yaml"),
        ([str(empty), REPO], "neither an adapter nor a checkpoint"),
    ):
        assert _main(arguments) == 2
        assert said in capsys.readouterr().err
    server.failures.append(Failure("/repos/create", 403))
    assert _main([run, REPO]) == 1
    assert "not pushed: " in capsys.readouterr().err
    monkeypatch.delenv("HF_TOKEN")
    assert _main([run, REPO]) == 2
    assert "HF_TOKEN is not set" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("token", "endpoint", "offline", "said"),
    [
        (TOKEN, None, None, None),
        (TOKEN, "http://127.0.0.1:1", "0", None),
        (None, None, None, "HF_TOKEN is not set"),
        ("  ", None, None, "HF_TOKEN is not set"),
        ("hf_two words", None, None, "is no token"),
        (TOKEN, "hub.example.org", None, "HF_ENDPOINT is 'hub.example.org'"),
        (TOKEN, None, "1", "HF_HUB_OFFLINE is 1"),
    ],
)
def test_what_is_told_before_training(
    monkeypatch: pytest.MonkeyPatch, token: str | None, endpoint: str | None, offline: str | None, said: str | None
) -> None:
    for name, value in (("HF_TOKEN", token), ("HF_ENDPOINT", endpoint), ("HF_HUB_OFFLINE", offline)):
        monkeypatch.delenv(name, raising=False)
        if value is not None:
            monkeypatch.setenv(name, value)
    mistakes = check_hub(HUB)
    assert len(mistakes) == (said is not None)
    assert said is None or said in mistakes[0]
    assert not token or not token.strip() or token not in "".join(mistakes)


@pytest.mark.parametrize("repo_id", ["name", "a/b/c", "-a/b", "a/b--c", "a/b.git", "a b/c", "a/" + "x" * 97, "https://huggingface.co/a/b"])
def test_malformed_repository_is_a_mistake_in_the_job(tmp_path: Path, repo_id: str) -> None:
    [mistake] = mistakes(tmp_path, changed({"hub.repo_id": repo_id}))
    assert mistake.startswith("hub.repo_id: must read owner/name")


def test_saved_job_of_a_run_that_is_pushed_holds_no_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert TOKEN not in dump_job(load(tmp_path, changed({"hub.repo_id": REPO})))
    assert load_job(str(tmp_path / "written.yaml")).hub == HUB
