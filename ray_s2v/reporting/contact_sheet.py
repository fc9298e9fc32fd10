"""One picture of what the trainer will see: for each bucket a few windows with their reference picture, and their sound below."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from ray_s2v.data.decode import framing_of
from ray_s2v.data.plan import Plan
from ray_s2v.media.audio import read_audio
from ray_s2v.media.video import read_frames
from ray_s2v.schema import FRAME_RATE, SAMPLES_PER_FRAME, Bucket, ClipError, PlanRow

MAX_ROWS = 60  # of a sheet; more would make a picture that few programs open
ROWS_OF_BUCKET = 3
MAX_FRAMES = 8  # of a window

# Pixels of the sheet. A window's time runs from STRIP_LEFT over STRIP_WIDTH, for its pictures as for its sound.
TILE = 200  # the longer side of a picture at most; smaller ones keep their size
SLOT = TILE + 4  # that a picture has for itself
MARGIN = 16
STRIP_LEFT = MARGIN + SLOT + 20  # right of the reference picture
STRIP_WIDTH = MAX_FRAMES * SLOT
SHEET_WIDTH = STRIP_LEFT + STRIP_WIDTH + MARGIN
HEADING_HEIGHT = 44
LABEL_HEIGHT = 48  # two lines above the pictures
SOUND_GAP = 6
SOUND_HEIGHT = 64
TIMES_HEIGHT = 20  # of the line below the sound
CELL_GAP = 18

PAPER, INK, FAINT, WAVE, DROPPED, WRONG = "#ffffff", "#202428", "#7a838c", "#2f6f9f", "#c4cad0", "#b3261e"
KIND_COLOURS = {"first": "#1f7a4d", "continuation": "#9a5b00"}


@dataclass(frozen=True)
class Shown:
    """What is read of a row."""

    frames: tuple[int, ...]  # of the clip
    pictures: tuple[Image.Image, ...]  # of the frames
    reference: Image.Image
    sound: NDArray[np.float32] | None  # [1000 * num_frames], None for a row without


def draw_contact_sheet(plan: Plan, out: Path) -> None:
    """Writes the sheet of a plan as a PNG."""
    contact_sheet(rows_to_show(plan), out)


def rows_to_show(plan: Plan) -> dict[Bucket, list[PlanRow]]:
    """Up to three rows of each bucket from the first epoch: of different clips, and of both kinds where there are both.

    Of many buckets each has fewer, and those that are seen least have none: together at most 60.
    """
    epoch, visits = plan.order.epoch(0), plan.order.num_visits
    number_of_bucket = {bucket: number for number, bucket in enumerate(visits)}
    bucket_of_clip = np.empty(len(plan.clips), np.int64)
    for bucket, cells in plan.order.buckets.items():
        bucket_of_clip[np.concatenate([cell.clips for cell in cells])] = number_of_bucket[bucket]
    bucket_of_step = bucket_of_clip[epoch.clips[:, 0]]
    most = max(min(MAX_ROWS // len(visits), ROWS_OF_BUCKET), 1)
    rows = {}
    for bucket in sorted(sorted(visits, key=lambda bucket: -visits[bucket])[:MAX_ROWS]):
        is_here = bucket_of_step == number_of_bucket[bucket]
        kinds = [np.flatnonzero(is_here & (epoch.continued == continued))[:most].tolist() for continued in (False, True)]
        rows[bucket] = _of_different_clips([_rows_of(plan, steps) for steps in kinds], most)
    return rows


def _rows_of(plan: Plan, steps: Sequence[int]) -> Iterator[PlanRow]:
    return chain.from_iterable(plan.rows(step, step + 1) for step in steps)


def _of_different_clips(kinds: Sequence[Iterator[PlanRow]], most: int) -> list[PlanRow]:
    """One row of each kind in turn, until there are enough or no more."""
    found: dict[str, PlanRow] = {}
    waiting = list(kinds)
    while waiting and len(found) < most:
        kind = waiting.pop(0)
        row = next((row for row in kind if row["clip_id"] not in found), None)
        if row is not None:
            found[row["clip_id"]] = row
            waiting.append(kind)
    return sorted(found.values(), key=lambda row: (row["kind"] != "first", row["step"], row["slot"]))


def contact_sheet(rows: Mapping[Bucket, Sequence[PlanRow]], out: Path) -> None:
    """Writes the sheet of these rows as a PNG, 1888 pixels wide. A clip that cannot be read shows its reason."""
    parts: list[Image.Image] = []
    for bucket, of_bucket in rows.items():
        seconds = bucket.num_frames / FRAME_RATE
        parts.append(_heading(f"{bucket.width} x {bucket.height}, {bucket.num_frames} frames ({seconds:g} s)"))
        parts += [cell(row, read_row(row)) for row in of_bucket]
    sheet, _ = _blank(sum(part.height for part in parts) + MARGIN)
    top = 0
    for part in parts:
        sheet.paste(part, (0, top))
        top += part.height
    sheet.save(out, "PNG")


def shown_frames(num_frames: int) -> list[int]:
    """The frames of a window that are shown, each in the middle of its share of the time."""
    count = min(MAX_FRAMES, num_frames)
    return [(2 * index + 1) * num_frames // (2 * count) for index in range(count)]


def read_row(row: PlanRow) -> Shown | str:
    """The pictures and the sound of a row's window, or the reason why there are none."""
    start, num_frames, framing = row["start_frame"], row["num_frames"], framing_of(row)
    frames = [start + frame for frame in shown_frames(num_frames)]
    try:
        pictures, (reference,) = (read_frames(row["video"], indices, framing) for indices in (frames, [row["reference_frame"]]))
        heard = read_audio(row["audio"], row["video"], start, num_frames) if row["audio"] else None
    except (ClipError, OSError) as reason:
        return str(reason)
    sound = None if heard is None else np.pad(heard, (0, num_frames * SAMPLES_PER_FRAME - len(heard)))
    return Shown(tuple(frames), tuple(map(_tile, pictures)), _tile(reference), sound)


def cell(row: PlanRow, shown: Shown | str) -> Image.Image:
    """One row of the sheet: two lines of text, the reference picture, the frames, and the sound on the same axis of time."""
    if isinstance(shown, str):
        picture, draw = _blank(LABEL_HEIGHT + TIMES_HEIGHT + CELL_GAP)
        _label(draw, row)
        _text(draw, (MARGIN, LABEL_HEIGHT), f"cannot be read: {shown}", WRONG, 16)
        return picture
    sound_top = LABEL_HEIGHT + shown.reference.height + SOUND_GAP
    picture, draw = _blank(sound_top + SOUND_HEIGHT + TIMES_HEIGHT + CELL_GAP)
    _label(draw, row)
    picture.paste(shown.reference, (MARGIN + (SLOT - shown.reference.width) // 2, LABEL_HEIGHT))
    _text(draw, (MARGIN, sound_top), f"reference, {row['reference_frame'] / FRAME_RATE:.2f} s", FAINT, 13)
    _text(draw, (MARGIN, sound_top + 20), _sound_words(row, shown.sound), FAINT, 13)
    slot = STRIP_WIDTH // len(shown.frames)
    for index, (frame, tile) in enumerate(zip(shown.frames, shown.pictures, strict=True)):
        picture.paste(tile, (STRIP_LEFT + index * slot + (slot - tile.width) // 2, LABEL_HEIGHT))
        x = STRIP_LEFT + (frame - row["start_frame"]) * STRIP_WIDTH // row["num_frames"]
        draw.line([(x, sound_top - SOUND_GAP + 1), (x, sound_top + SOUND_HEIGHT)], FAINT)
        draw.text((x, sound_top + SOUND_HEIGHT + 2), f"{frame / FRAME_RATE:.2f} s", FAINT, _font(13), anchor="ma")
    if shown.sound is not None:
        wave = Image.fromarray(waveform(shown.sound))
        picture.paste(Image.new("RGB", wave.size, DROPPED if row["drop_audio"] else WAVE), (STRIP_LEFT, sound_top), wave)
    return picture


def waveform(sound: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Least to greatest sample of each column of time, the loudest filling the height: [64, 1632], 255 where there is ink."""
    edges = np.arange(STRIP_WIDTH + 1) * len(sound) // STRIP_WIDTH
    scale = (SOUND_HEIGHT // 2 - 1) / max(float(np.abs(sound).max()), 1e-3)
    low, high = (np.rint(scale * reduce.reduceat(sound, edges[:-1])) for reduce in (np.minimum, np.maximum))
    y = (SOUND_HEIGHT // 2 - np.arange(SOUND_HEIGHT))[:, None]
    return np.where((np.minimum(low, 0) <= y) & (y <= np.maximum(high, 0)), 255, 0).astype(np.uint8)


def _tile(pixels: NDArray[np.uint8]) -> Image.Image:
    """The picture, shrunk where it is larger than a tile. pixels: [height, width, 3]."""
    picture = Image.fromarray(pixels)
    picture.thumbnail((TILE, TILE), Image.Resampling.LANCZOS)
    return picture


def _sound_words(row: PlanRow, sound: NDArray[np.float32] | None) -> str:
    if sound is None:
        return "no sound: trained with zeros"
    peak = float(np.abs(sound).max())
    loudness = f"peak {20 * np.log10(peak):.0f} dB" if peak > 1e-5 else "silence"
    return f"sound, {loudness}" + (", dropped" if row["drop_audio"] else "")


def _blank(height: int) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    picture = Image.new("RGB", (SHEET_WIDTH, height), PAPER)
    return picture, ImageDraw.Draw(picture)


def _heading(text: str) -> Image.Image:
    picture, draw = _blank(HEADING_HEIGHT)
    _text(draw, (MARGIN, 10), text, INK, 20)
    draw.line([(MARGIN, HEADING_HEIGHT - 6), (SHEET_WIDTH - MARGIN, HEADING_HEIGHT - 6)], FAINT)
    return picture


def _label(draw: ImageDraw.ImageDraw, row: PlanRow) -> None:
    """Kind, start and id; below them the caption."""
    start_s, end_s = row["start_frame"] / FRAME_RATE, (row["start_frame"] + row["num_frames"]) / FRAME_RATE
    _text(draw, (MARGIN, 4), row["kind"], KIND_COLOURS[row["kind"]], 16)
    _text(draw, (MARGIN + 110, 4), f"{start_s:.2f} to {end_s:.2f} s", INK, 16)
    _text(draw, (STRIP_LEFT + 60, 4), row["clip_id"], INK, 16)
    _text(draw, (MARGIN, 26), row["caption"] or "no text: dropped for guidance", INK if row["caption"] else FAINT, 14)


def _text(draw: ImageDraw.ImageDraw, place: tuple[int, int], text: str, colour: str, size: int) -> None:
    """One line, cut short at the sheet's right margin."""
    font, room = _font(size), SHEET_WIDTH - MARGIN - place[0]
    line = " ".join(text.split())
    if font.getlength(line) > room:
        while font.getlength(line + "...") > room:
            line = line[: int(len(line) * 0.97)]
        line += "..."
    draw.text(place, line, colour, font)


def _font(size: int) -> ImageFont.FreeTypeFont:
    font = ImageFont.load_default(size)
    assert isinstance(font, ImageFont.FreeTypeFont)
    return font
