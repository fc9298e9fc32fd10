"""Job files: YAML with overrides to a Job and back; unknown keys are mistakes, and all mistakes are told at once."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from ray_s2v.config.job import Job
from ray_s2v.schema import ConfigError

# Names that other trainers use for a thing that is called or computed otherwise here.
HINTS = {
    "accumulation": "follows from global_batch / (workers * batch_size)",
    "gradient_accumulation_steps": "follows from global_batch / (workers * batch_size)",
    "train_batch_size": "here it is batch_size (of a worker) and global_batch (of a step)",
    "max_train_steps": "here it is training.steps",
    "num_train_epochs": "here it is training.epochs",
    "lora_rank": "here it is lora.rank",
    "lora_alpha": "here it is lora.alpha",
    "instance_data_dir": "here it is path",
    "caption_strategy": "here it is caption",
    "probability": "here it is weight",
    "crop_style": "here it is crop",
    "crop_aspect": "here it is aspect",
    "crop_aspect_buckets": "here it is aspects",
    "minimum_image_size": "here it is min_size",
    "maximum_image_size": "here it is max_size",
    "target_downsample_size": "here it is downsample_to",
    "pose": "here it is pose_path of a source; zeros without",
}


class _Loader(yaml.SafeLoader):
    """YAML without the trap of a key given twice, of which the last would win."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        if not isinstance(node, yaml.MappingNode):
            raise yaml.constructor.ConstructorError(None, None, "expected a mapping", node.start_mark)
        keys = [self.construct_object(key, deep=True) for key, _ in node.value if key.tag != "tag:yaml.org,2002:merge"]
        if twice := {str(key) for key in keys if keys.count(key) > 1}:
            raise yaml.constructor.ConstructorError(None, None, f"given twice: {', '.join(sorted(twice))}", node.start_mark)
        return super().construct_mapping(node, deep)


def _parsed(text: str) -> Any:
    """The document, each alias a copy of its own. Raises yaml.YAMLError, also where PyYAML's constructors raise other things."""
    try:
        return _unshared(yaml.load(text, _Loader))  # noqa: S506 a SafeLoader
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise yaml.YAMLError(f"a value that cannot be read: {error}") from error


def _unshared(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _unshared(item) for key, item in value.items()}
    return [_unshared(item) for item in value] if isinstance(value, list) else value


def load_job(path: str, overrides: Sequence[str] = ()) -> Job:
    """The job of a YAML file with `section.key=value` overrides. Raises ConfigError listing every mistake."""
    try:
        settings = _parsed(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: no readable YAML: {error}") from error
    except ValueError as error:
        raise ConfigError(f"{path!r}: {error}") from error
    if not isinstance(settings, dict):
        raise ConfigError(f"{path}: a job is a mapping of sections: {', '.join(Job.model_fields)}")
    mistakes = [message for override in overrides if (message := _override(settings, override))]
    try:
        job = Job.model_validate(settings)
    except ValidationError as error:
        mistakes += [mistake for detail in error.errors() for mistake in _explained(detail)]
    if mistakes:
        raise ConfigError("\n".join([f"{path}: {len(mistakes)} mistake{'s' * (len(mistakes) > 1)}", *(f"  {m}" for m in mistakes)]))
    return job


def dump_job(job: Job) -> str:
    """The job as YAML, every default written out."""
    return yaml.safe_dump(job.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def _override(settings: dict[str, Any], override: str) -> str | None:
    """Sets `section.key=value` in place; returns what is wrong with it, if anything."""
    key, equals, text = override.partition("=")
    if not equals or not all(key.split(".")):
        return f"{override!r}: an override reads section.key=value"
    try:
        value = _parsed(text)
    except yaml.YAMLError:
        return f"{override!r}: the value is no readable YAML"
    *parents, last = key.split(".")
    node: Any = settings
    for part in parents:
        if isinstance(node, list):
            if part not in map(str, range(len(node))):
                return f"{key}: there is no item {part}; items 0 to {len(node) - 1} are there"
            node = node[int(part)]
        elif isinstance(node, dict):
            if node.get(part) is None:
                node[part] = {}
            node = node[part]
        else:
            return f"{key}: {part} stands below a value, not a section"
    if isinstance(node, list):
        if last not in map(str, range(len(node))):
            return f"{key}: there is no item {last}; items 0 to {len(node) - 1} are there"
        node[int(last)] = value
    elif isinstance(node, dict):
        node[last] = value
    else:
        return f"{key}: {last} stands below a value, not a section"
    return None


def _explained(detail: ErrorDetails) -> list[str]:
    """Mistakes at one place in words: where, what is wrong, what it was."""
    where, given = ".".join(map(str, detail["loc"])), detail["input"]
    match detail["type"]:
        case "extra_forbidden":
            return [f"{where}: unknown; {_known_instead(detail['loc'])}"]
        case "missing":
            return [f"{where}: missing"]
        case "model_type":
            message = "must be a section with settings of its own"
        case "too_short" | "string_too_short":
            return [f"{where}: must not be empty"]
        case _:
            message = detail["msg"].removeprefix("Value error, ").replace("Input should be", "must be")
    was = "" if isinstance(given, dict | list | BaseModel) else f" (it is {given!r})"
    return [f"{where}: {line}{was}" if where else line for line in message.split("\n")]


def _known_instead(location: tuple[int | str, ...]) -> str:
    """What a person may have meant by a name that is unknown at its place."""
    *parents, name = location
    section: type[BaseModel] = Job
    for part in parents:
        if isinstance(part, str):  # the items of a list are all of one kind
            section = dict(_sections_below(section))[part]
    if hint := HINTS.get(str(name)):
        return hint
    if elsewhere := [place for place in _settings_below(Job, "") if place.split(".")[-1] == name]:
        return f"there is {' and '.join(elsewhere)}"
    close = difflib.get_close_matches(str(name), section.model_fields, n=1, cutoff=0.5)
    return f"did you mean {close[0]}?" if close else f"known here: {', '.join(section.model_fields)}"


def _sections_below(section: type[BaseModel]) -> Iterator[tuple[str, type[BaseModel]]]:
    """The settings of a section that are sections themselves, or lists of them."""
    for name, field in section.model_fields.items():
        for kind in (field.annotation, *get_args(field.annotation)):
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                yield name, kind


def _settings_below(section: type[BaseModel], place: str) -> Iterator[str]:
    """The dotted names of all settings in a section and in those below it."""
    below = dict(_sections_below(section))
    for name, field in section.model_fields.items():
        if name in below:
            first_item = ".0" if get_origin(field.annotation) is list else ""
            yield from _settings_below(below[name], f"{place}{name}{first_item}.")
        else:
            yield place + name
