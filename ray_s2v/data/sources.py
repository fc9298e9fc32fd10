"""A source to its clips: what lies there, which files belong together, and what cannot be used. No media is opened."""

from __future__ import annotations

import posixpath
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

from ray_s2v.config.source import Source
from ray_s2v.data.found import Found, Part, Rejected, Seen, shown, stem_of, suffix_of
from ray_s2v.data.listing import file_at, files_below
from ray_s2v.data.tables import clips_in_tables, read_table
from ray_s2v.data.tars import clips_in_tars
from ray_s2v.media.container import AUDIO_SUFFIXES, VIDEO_SUFFIXES
from ray_s2v.schema import ClipError, ConfigError
from ray_s2v.storage import absolute

TABLE_SUFFIXES = {".parquet", ".csv"}


def find(source: Source) -> tuple[list[Found], list[Rejected]]:
    """Every clip of a source by name, and by path what cannot be one; both depend on the files alone.

    Raises ConfigError if a place of the source is not there or its settings contradict what is, DataError for a broken manifest.
    """
    seen, rejected = _seen(source)
    sounds, poses = _Beside.of(source.audio_path, AUDIO_SUFFIXES), _Beside.of(source.pose_path, VIDEO_SUFFIXES)
    rejected += [*(sounds.rejected if sounds else ()), *(poses.rejected if poses else ())]
    clips: dict[str, Found] = {}
    for clip in sorted(seen, key=lambda clip: (clip.name, clip.video.place)):
        try:
            if clip.name in clips:
                raise ClipError(f"{source.called()}/{clip.name} is already {shown(clips[clip.name].video.place)}")
            caption, words = _caption(clip, source)
            clips[clip.name] = Found(clip.name, clip.video, _sound(clip, source, sounds), _pose(clip, poses), caption, words)
        except ClipError as reason:
            rejected.append(Rejected(shown(clip.video.place), str(reason)))
    return list(clips.values()), sorted(rejected, key=lambda r: (r.path, r.reason))


def _seen(source: Source) -> tuple[list[Seen], list[Rejected]]:
    """The videos of a folder, of tars or of manifests, as the path says."""
    place = absolute(source.path)
    file = file_at(place)
    if file is None:
        return _seen_below(place, source)
    if place.endswith(".tar"):
        return clips_in_tars({posixpath.basename(place): file}, set())
    if suffix_of(place) in TABLE_SUFFIXES:
        return _seen_in_tables([place], posixpath.dirname(place), source)
    raise ConfigError(f"data.sources: {source.path}: must be a folder, or a .tar, .parquet or .csv file")


def _seen_below(root: str, source: Source) -> tuple[list[Seen], list[Rejected]]:
    files, rejected = files_below(root)
    kinds = defaultdict(list)
    for name in files:
        kinds[suffix_of(name)].append(name)
    videos = [name for suffix in VIDEO_SUFFIXES for name in kinds[suffix]]
    tars = {name: files[name] for name in sorted(kinds[".tar"]) if name.endswith(".tar")}
    if kinds[".parquet"] and not videos and not tars:
        seen, lost = _seen_in_tables(sorted(files[name].place for name in kinds[".parquet"]), root, source)
        return seen, rejected + lost
    if videos and source.caption == "column":
        raise ConfigError(f"data.sources: {source.path}: caption: column is for manifests and tars, and {min(videos)} is a file of its own")
    in_tars, lost = clips_in_tars(tars, set(videos))
    in_folder = [Seen(name, files[name], files.get(f"{stem_of(name)}.txt"), None, None, None, None) for name in videos]
    return in_folder + in_tars, rejected + lost


def _seen_in_tables(places: list[str], root: str, source: Source) -> tuple[list[Seen], list[Rejected]]:
    tables = [read_table(place) for place in places]
    for place, table in zip(places, tables, strict=True):
        for column, setting in (("audio", source.audio_path), ("pose", source.pose_path)):
            if column in table.columns and setting is not None:
                raise ConfigError(f"data.sources: {place} has a column {column}, and {column}_path is {setting}: give one")
        if source.caption in (None, "column") and "caption" not in table.columns:
            raise ConfigError(f"data.sources: {place} has no column caption: add it, or set caption to textfile, filename or fixed")
    return clips_in_tables(tables, root, with_text=source.caption == "textfile")


@dataclass(frozen=True)
class _Beside:
    """The files of a folder apart, by the names that they share with videos."""

    root: str
    by_stem: Mapping[str, list[Part]]
    rejected: list[Rejected]

    @staticmethod
    def of(path: str | None, suffixes: set[str]) -> _Beside | None:
        if path is None:
            return None
        files, rejected = files_below(absolute(path))
        by_stem = defaultdict(list)
        for name in sorted(files):
            if suffix_of(name) in suffixes:
                by_stem[stem_of(name)].append(files[name])
        return _Beside(path, dict(by_stem), rejected)

    def matches(self, clip: Seen) -> list[Part]:
        return self.by_stem.get(stem_of(clip.name), [])


def _caption(clip: Seen, source: Source) -> tuple[Part | None, tuple[str, ...] | None]:
    """The file that the captions are in, or the captions. Raises ClipError if there is neither."""
    stem = posixpath.basename(stem_of(clip.name))
    way = source.caption or ("column" if clip.words is not None else "textfile")
    if way == "fixed":
        return None, ((source.instance_prompt or "").strip(),)
    if way == "filename":
        words = stem.replace("_", " ").strip()
        if not words:
            raise ClipError("no caption: the file name holds no words")
        return None, (words,)
    if way == "textfile":
        if clip.text is None:
            raise ClipError(f"no caption: {stem}.txt is not there")
        return clip.text, None
    if clip.words is not None:
        if not clip.words:
            raise ClipError("no caption: its cell is empty")
        return None, clip.words
    if clip.json is None:
        raise ClipError(f"no caption: {stem}.json is not there")
    return clip.json, None


def _sound(clip: Seen, source: Source, beside: _Beside | None) -> Part | None:
    """The file that the sound is in, None for none where that is allowed. Raises ClipError for none where not, and for two."""
    if source.auto_split:
        return clip.video
    matches = [*(clip.sounds or ()), *(beside.matches(clip) if beside else ())]
    if len(matches) > 1:
        raise ClipError(f"two sounds: {_listed(matches)}")
    if matches:
        return matches[0]
    if clip.sounds is None and source.takes_own_sound():
        return clip.video
    if source.allow_zero_audio:
        return None
    raise ClipError(f"no sound: {stem_of(clip.name)}.* is not in {beside.root}" if beside else "no sound: its cell is empty")


def _pose(clip: Seen, beside: _Beside | None) -> Part | None:
    matches = beside.matches(clip) if beside else []
    if len(matches) > 1:
        raise ClipError(f"two pose videos: {_listed(matches)}")
    return matches[0] if matches else clip.pose


def _listed(parts: list[Part]) -> str:
    return " and ".join(shown(part.place) for part in parts)
