"""What webhooks get over real connections, when they get it again, and what is said where they cannot be reached."""

import json
import logging
import time
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from pathlib import Path

import pytest

from ray_s2v.reporting.delivery import Delivery, NotDelivered, end_all
from ray_s2v.reporting.messages import Event
from ray_s2v.reporting.services import webhook
from ray_s2v.reporting.services.discord import MAX_FILE_BYTES
from ray_s2v.reporting.services.webhook import Webhook
from tests.servers import Answer, Request, answering, hanging, refusing

SECRET = "/api/webhooks/1234/t0psecret"


def event(kind: str = "checkpoint", videos: Iterable[Path] = (), **changes: object) -> Event:
    figures = {"train/loss": 0.51234, "held_out/loss": float("nan")}
    return Event(kind, "my-run", 500, 2000, figures, {path.stem: path for path in videos}, **changes)


def post(url: str, kind: str = "raw", sent: Event | None = None) -> None:
    Webhook("webhook A", url + SECRET, kind).deliver(sent or event())


def answers(*statuses: int, headers: dict[str, str] | None = None) -> Callable[[Request], Answer]:
    given = iter(statuses)
    return lambda request: Answer(next(given), headers=headers or {})


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webhook, "BACK_OFF_S", 0.05)


def test_raw_is_the_event_in_json(tmp_path: Path) -> None:
    with answering(answers(204)) as server:
        post(server.url, sent=event("failed", [tmp_path / "anna.mp4"], text="RunStopped: step 3"))
    request = server.requests[0]
    assert (request.method, request.path, request.headers["Content-Type"]) == ("POST", SECRET, "application/json")
    assert json.loads(request.body) == {
        "event": "failed",
        "run": "my-run",
        "step": 500,
        "num_steps": 2000,
        "figures": {"train/loss": 0.51234, "held_out/loss": None},
        "videos": {"anna": str(tmp_path / "anna.mp4")},
        "text": "RunStopped: step 3",
    }


def test_discord_gets_a_message_with_the_videos_that_it_takes(tmp_path: Path) -> None:
    small, large = tmp_path / "anna.mp4", tmp_path / "ben.mp4"
    small.write_bytes(b"\0\1\r\n--\xff" * 1000)
    with large.open("wb") as file:
        file.truncate(MAX_FILE_BYTES + 1)
    with answering(answers(200)) as server:
        post(server.url, "discord", event("validation", [small, large], text="@everyone failed: no face"))
    parts = server.requests[0].parts()
    assert set(parts) == {"payload_json", "files[0]"}
    assert parts["files[0]"] == ("anna.mp4", small.read_bytes())
    message = json.loads(parts["payload_json"][1])
    assert message["content"] == "**my-run** validation"
    assert message["allowed_mentions"] == {"parse": []}
    (embed,) = message["embeds"]
    assert embed["title"] == "validation, step 500 of 2000"
    assert embed["description"] == f"@everyone failed: no face\nben: not attached, 10.0 MB: {large}"
    assert embed["fields"][0] == {"name": "train/loss", "value": "0.5123", "inline": True}


def test_discord_takes_ten_files_and_so_many_bytes(tmp_path: Path) -> None:
    videos = [tmp_path / f"{place:02d}.mp4" for place in range(12)]
    for path in videos:
        path.write_bytes(b"x" * 100)
    with videos[0].open("wb") as file:
        file.truncate(MAX_FILE_BYTES)
    with answering(answers(200)) as server:
        post(server.url, "discord", event("validation", videos))
    parts = server.requests[0].parts()
    assert sorted(parts) == sorted(["payload_json", *(f"files[{place}]" for place in range(10))])
    assert "10: not attached, 0.0 MB" in json.loads(parts["payload_json"][1])["embeds"][0]["description"]
    with videos[1].open("wb") as file, videos[2].open("wb") as other:
        file.truncate(MAX_FILE_BYTES)
        other.truncate(MAX_FILE_BYTES)
    with answering(answers(200)) as server:
        post(server.url, "discord", event("validation", videos[:3]))
    assert len(server.requests[0].body) < 25 * 1024**2
    assert set(server.requests[0].parts()) == {"payload_json", "files[0]", "files[1]"}


def test_a_message_without_videos_keeps_within_discords_limits() -> None:
    with answering(answers(204)) as server:
        post(server.url, "discord", Event("failed", "r" * 3000, 1, 2, {"c" * 50 + str(i): 1.0 for i in range(30)}, text="x" * 9000))
    message = json.loads(server.requests[0].body)
    (embed,) = message["embeds"]
    assert len(message["content"]) <= 2000
    assert len(embed["fields"]) <= 25
    texts = [embed["title"], embed["description"], *(part for field in embed["fields"] for part in (field["name"], field["value"]))]
    assert sum(map(len, texts)) <= 6000


@pytest.mark.parametrize(
    ("statuses", "tries"),
    [((204,), 1), ((429, 200), 2), ((500, 503, 502, 200), 4), ((302,), 1), ((404,), 1), ((413,), 1), ((500,) * 5, 4)],
)
def test_tried_again_where_that_can_help(statuses: tuple[int, ...], tries: int) -> None:
    last = statuses[tries - 1]
    taken = nullcontext() if last < 300 else pytest.raises(NotDelivered, match=f"^answered {last} ")
    with answering(answers(*statuses, headers={"Location": "/elsewhere"})) as server, taken:
        post(server.url)
    assert [request.path for request in server.requests] == [SECRET] * tries


def test_waits_as_long_as_it_is_told() -> None:
    times = []

    def answer(request: Request) -> Answer:
        times.append(time.monotonic())
        return Answer(429, headers={"Retry-After": "0.4"}) if len(times) == 1 else Answer(204)

    with answering(answer) as server:
        post(server.url)
    assert 0.4 <= times[1] - times[0] < 0.8


def test_does_not_wait_for_an_hour() -> None:
    with answering(answers(429, headers={"Retry-After": "3600"})) as server, pytest.raises(NotDelivered, match="answered 429"):
        post(server.url)


def test_one_try_each_while_it_is_down() -> None:
    statuses = [500] * 4 + [500] + [204] + [500] * 4
    with answering(answers(*statuses)) as server:
        service = Webhook("webhook A", server.url + SECRET, "raw")
        for taken in (False, False, True, False):
            with nullcontext() if taken else pytest.raises(NotDelivered):
                service.deliver(event())
    assert len(server.requests) == 4 + 1 + 1 + 4


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        (nullcontext(refusing()), "connection refused"),
        (hanging(), "no answer in 0.3 s"),
        (nullcontext("http://nowhere.invalid"), "its host's name is not known"),
    ],
)
def test_dead_webhooks_are_told_without_their_url(
    url: object, reason: str, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webhook, "ANSWER_S", 0.3)
    caplog.set_level(logging.DEBUG)
    said: list[str] = []
    with url as address:
        delivery = Delivery(Webhook("webhook RAY_S2V_WEBHOOK", address + SECRET, "discord"), said.append)
        for kind in ("started", "checkpoint", "finished"):
            delivery.put(event(kind))
        began = time.monotonic()
        lines = end_all([delivery], False, within_s=9)
    assert time.monotonic() - began < 5
    assert lines == [f"webhook RAY_S2V_WEBHOOK: 3 of 3 messages were not delivered: {reason}"]
    everything = "".join([*lines, *said, caplog.text, *capfd.readouterr()])
    assert "t0psecret" not in everything


def test_a_url_that_works_is_logged_nowhere(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with answering(answers(500, 204)) as server:
        post(server.url)
    assert len(server.requests) == 2
    assert "t0psecret" not in caplog.text


def test_an_answer_without_end_is_not_read() -> None:
    with answering(lambda request: Answer(200, headers={"Content-Length": "1000000000"}, body=b"and so on")) as server:
        post(server.url)
    assert len(server.requests) == 1


def test_a_video_that_is_gone_is_told(tmp_path: Path) -> None:
    with answering(answers(204)) as server, pytest.raises(NotDelivered, match=r"gone\.mp4: No such file"):
        post(server.url, "discord", event("validation", [tmp_path / "gone.mp4"]))
    assert server.requests == []
