"""Events to a webhook. Its URL is a secret: whoever knows it can post there."""

from __future__ import annotations

import logging
import math
import socket
import time
from http.client import responses
from typing import Any

import requests

from ray_s2v.reporting.delivery import NotDelivered, Service
from ray_s2v.reporting.messages import Event, Message
from ray_s2v.reporting.services.discord import discord_message

TRIES = 4
BACK_OFF_S = 1.0  # before the second try, and doubled for each other
MOST_RETRY_AFTER_S = 60.0
CONNECT_S, ANSWER_S = 5.0, 15.0
HEADERS = {"User-Agent": "ray_s2v"}  # Discord's guard turns away some libraries' own


class Webhook(Service):
    """Posts events: to Discord as messages with their videos, else as they are, in JSON."""

    def __init__(self, name: str, url: str, kind: str) -> None:
        super().__init__(name)
        self.url, self.kind = url, kind
        self.tries = TRIES
        # It would write the URL of every request where someone logs at DEBUG.
        logging.getLogger("urllib3.connectionpool").setLevel(logging.INFO)

    def deliver(self, message: Message) -> None:
        assert isinstance(message, Event)
        try:
            self._post(self._content(message))
        except NotDelivered:
            self.tries = 1  # what follows does not wait for a service that is down
            raise
        self.tries = TRIES

    def _content(self, event: Event) -> dict[str, Any]:
        if self.kind == "raw":
            return {"json": raw_message(event)}
        try:
            return discord_message(event)
        except OSError as error:
            raise NotDelivered(f"{error.filename}: {error.strerror}") from error

    def _post(self, content: dict[str, Any]) -> None:
        """Tries again where that can help: no connection, too many requests, an error of the server's."""
        for tries_left in reversed(range(self.tries)):
            pause_s = BACK_OFF_S * 2 ** (self.tries - 1 - tries_left)
            try:
                # Neither its answer is read, which may have no end, nor a redirection followed, which would turn a POST into a GET.
                with requests.post(
                    self.url, **content, headers=HEADERS, timeout=(CONNECT_S, ANSWER_S), allow_redirects=False, stream=True
                ) as answer:
                    status, retry_after = answer.status_code, answer.headers.get("Retry-After", "")
            except requests.ReadTimeout:  # may have arrived, and would then stand there twice
                reason = f"no answer in {ANSWER_S:g} s"
                break
            except requests.RequestException as error:
                reason = _cause(error)
            else:
                if status < 300:
                    return
                reason = f"answered {status} {responses.get(status, '')}".strip()
                if status == 429:
                    pause_s = _seconds(retry_after, pause_s)
                elif status < 500:
                    break
            if tries_left and pause_s <= MOST_RETRY_AFTER_S:
                time.sleep(pause_s)
            else:
                break
        # The text and the trace of what requests raises hold the URL.
        raise NotDelivered(reason) from None


def raw_message(event: Event) -> dict[str, Any]:
    """The event as JSON takes it; a figure that is not finite becomes null."""
    return {
        "event": event.kind,
        "run": event.run,
        "step": event.step,
        "num_steps": event.num_steps,
        "figures": {chart: value if math.isfinite(value) else None for chart, value in event.figures.items()},
        "videos": {scene: str(path) for scene, path in event.videos.items()},
        "text": event.text,
    }


def _cause(error: BaseException) -> str:
    """What a failed connection comes down to, in words that hold no URL."""
    causes = [error]
    while (cause := causes[-1].__cause__ or causes[-1].__context__) is not None:
        causes.append(cause)
    for cause in reversed(causes):
        if isinstance(cause, socket.gaierror):
            return "its host's name is not known"
        if isinstance(cause, TimeoutError):
            return "timed out"
        if isinstance(cause, OSError) and not isinstance(cause, requests.RequestException) and cause.strerror:
            return cause.strerror.lower()
    return f"no connection ({type(causes[-1]).__name__})"


def _seconds(retry_after: str, otherwise: float) -> float:
    try:
        return max(0.0, float(retry_after))
    except ValueError:
        return otherwise
