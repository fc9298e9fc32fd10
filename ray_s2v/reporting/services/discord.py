"""An event as a message on Discord (its API, resource Webhook: Execute Webhook)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ray_s2v.reporting.messages import Event

MAX_FILE_BYTES = 10 * 1024**2  # Discord's limit where nobody pays for more
MAX_REQUEST_BYTES = 24 * 1024**2  # Discord's is 25 MiB, the text included
MAX_FILES = MAX_FIELDS = 10  # files are Discord's limit; of fields it takes 25
MAX_DESCRIPTION, MAX_NAME = 2000, 200  # characters; Discord's are 4096 and 256, and 6000 in all

HEADLINES = {
    "started": "started",
    "held_out": "held-out loss",
    "preview": "preview",
    "validation": "validation",
    "checkpoint": "checkpoint",
    "finished": "finished",
    "failed": "failed",
    "stopped": "stopped by Ctrl-C",
}
GREEN, RED, YELLOW, BLUE = 0x2E9E5B, 0xC93C37, 0xD9A514, 0x4078C0
COLOURS = {"finished": GREEN, "failed": RED, "stopped": YELLOW}


def discord_message(event: Event) -> dict[str, Any]:
    """What requests.post takes: the message, and the videos that Discord takes; others are named with their sizes."""
    attached, named = _divided(event.videos)
    lines = [event.text] if event.text else []
    lines += [f"{scene}: not attached, {size / 1024**2:.1f} MB: {path}" for scene, path, size in named]
    embed = {
        "title": f"{HEADLINES[event.kind]}, step {event.step} of {event.num_steps}",
        "description": "\n".join(lines)[:MAX_DESCRIPTION],
        "color": COLOURS.get(event.kind, BLUE),
        "fields": [{"name": chart, "value": f"{value:.4g}", "inline": True} for chart, value in list(event.figures.items())[:MAX_FIELDS]],
    }
    message = {
        "content": f"**{event.run[:MAX_NAME]}** {HEADLINES[event.kind]}",
        "embeds": [embed],
        "allowed_mentions": {"parse": []},  # a scene called @everyone calls nobody
    }
    if not attached:
        return {"json": message}
    files = {f"files[{place}]": (f"{scene}.mp4", path.read_bytes(), "video/mp4") for place, (scene, path) in enumerate(attached)}
    return {"data": {"payload_json": json.dumps(message)}, "files": files}


def _divided(videos: dict[str, Path]) -> tuple[list[tuple[str, Path]], list[tuple[str, Path, int]]]:
    """The videos that one message can carry, and the rest with their sizes in bytes."""
    attached: list[tuple[str, Path]] = []
    named: list[tuple[str, Path, int]] = []
    total = 0
    for scene, path in videos.items():
        size = path.stat().st_size
        if size <= MAX_FILE_BYTES and total + size <= MAX_REQUEST_BYTES and len(attached) < MAX_FILES:
            attached.append((scene, path))
            total += size
        else:
            named.append((scene, path, size))
    return attached, named
