"""Job files: YAML with overrides to a Job and back; unknown keys are mistakes, and all mistakes are told at once."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

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
        mistakes += [_explained(detail) for detail in error.errors()]
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


def _explained(detail: ErrorDetails) -> str:
    """One mistake in words: where, what it was, what would be right."""
    where = ".".join(str(part) for part in detail["loc"])
    if detail["type"] == "extra_forbidden":
        name = str(detail["loc"][-1])
        known = _keys_at(detail["loc"][:-1])
        close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
        hint = HINTS.get(name) or (f"did you mean {close[0]}?" if close else f"known here: {', '.join(known)}")
        return f"{where}: unknown; {hint}"
    if detail["type"] == "missing":
        return f"{where}: missing"
    message = detail["msg"].removeprefix("Value error, ")
    given = detail["input"]
    return f"{where}: {message}" + ("" if isinstance(given, dict | list) else f" (it is {given!r})")


def _keys_at(location: tuple[int | str, ...]) -> list[str]:
    """The keys that the section at this place knows."""
    section: Any = Job
    for part in location:
        if isinstance(part, str):
            annotation = section.model_fields[part].annotation
            candidates = [annotation, *getattr(annotation, "__args__", ())]
            section = next(c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel))
    return list(section.model_fields)
