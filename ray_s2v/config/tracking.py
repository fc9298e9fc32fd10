"""Services outside of the run that are told how it goes. Addresses and keys that are secret come from the environment alone."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Literal, get_args
from urllib.parse import urlsplit

from pydantic import Field, model_validator

from ray_s2v.config.section import Section, Text, refuse

KEY_VARIABLE = "WANDB_API_KEY"

Kind = Literal["started", "held_out", "preview", "validation", "checkpoint", "finished", "failed", "stopped"]


class WeightsAndBiases(Section):
    project: Text
    entity: Text | None = None  # a user or a team; the key's own when none is given
    name: Text | None = None  # of the run; its folder's when none is given
    mode: Literal["online", "offline"] = "online"  # offline: files for `wandb sync`
    tags: list[Text] = Field(default=[])


class Tracking(Section):
    wandb: WeightsAndBiases | None = None
    tensorboard: bool = False  # event files in the run's folder


class Webhook(Section):
    url_variable: Text  # the environment variable that holds the URL: whoever knows the URL can post there
    kind: Literal["discord", "raw"] = "discord"  # a message with its videos, or the event as JSON
    events: list[Kind] = Field(default=list(get_args(Kind)), min_length=1)

    @model_validator(mode="after")
    def _names_a_variable(self) -> Webhook:
        # Said of the whole section, so that what was given is not shown: it may be the URL itself.
        wrong = not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", self.url_variable)
        refuse(["url_variable must be the name of an environment variable that holds the URL, such as RAY_S2V_WEBHOOK"] if wrong else [])
        return self


def wrong_environment(tracking: Tracking, webhooks: Sequence[Webhook]) -> list[str]:
    """What the environment lacks for telling the services, a line each; never with a secret in it."""
    return [*_wrong_key(tracking), *_wrong_urls(webhooks)]


def _wrong_key(tracking: Tracking) -> Iterator[str]:
    if tracking.wandb and tracking.wandb.mode == "online" and not os.environ.get(KEY_VARIABLE):
        yield f"tracking.wandb: the environment variable {KEY_VARIABLE} is not set: set it to a key, or give mode: offline"


def _wrong_urls(webhooks: Sequence[Webhook]) -> Iterator[str]:
    for name, count in Counter(webhook.url_variable for webhook in webhooks).items():
        if count > 1:
            yield f"webhooks: {count} have the url_variable {name}: give each URL once, with all its events"
    for index, webhook in enumerate(webhooks):
        where, url = f"webhooks.{index}: the environment variable {webhook.url_variable}", os.environ.get(webhook.url_variable)
        if not url:
            yield f"{where} is not set: set it to the URL to post to"
        elif not _is_web_address(url):
            yield f"{where} holds no URL: one begins with https:// and a host"


def _is_web_address(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0 and url.isprintable() and " " not in url
    except ValueError:
        return False
