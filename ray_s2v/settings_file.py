"""Files of settings: YAML with overrides to sections; unknown keys are mistakes, and all mistakes are told at once."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from ray_s2v.schema import ConfigError

Root = TypeVar("Root", bound=BaseModel)


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


def read_settings(path: str, wanted: str) -> dict[Any, Any]:
    """The mapping in a YAML file. Raises ConfigError; `wanted` says what the file should hold."""
    try:
        settings = _parsed(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: no readable YAML: {error}") from error
    except ValueError as error:
        raise ConfigError(f"{path!r}: {error}") from error
    if not isinstance(settings, dict):
        raise ConfigError(f"{path}: {wanted}")
    return settings


def told(path: str, mistakes: Sequence[str]) -> ConfigError:
    """The error that lists the mistakes in a file."""
    return ConfigError("\n".join([f"{path}: {len(mistakes)} mistake{'s' * (len(mistakes) > 1)}", *(f"  {m}" for m in mistakes)]))


def override(settings: dict[Any, Any], text: str) -> str | None:
    """Sets `section.key=value` in place; returns what is wrong with it, if anything."""
    try:
        key, value = read_override(text)
    except ConfigError as error:
        return str(error)
    return set_value(settings, key, value)


def read_override(text: str) -> tuple[str, Any]:
    """Key and value of `section.key=value`. Raises ConfigError."""
    key, equals, value = text.partition("=")
    if not equals or not all(key.split(".")):
        raise ConfigError(f"{text!r}: an override reads section.key=value")
    try:
        return key, _parsed(value)
    except yaml.YAMLError as error:
        raise ConfigError(f"{text!r}: the value is no readable YAML") from error


def set_value(settings: dict[Any, Any], key: str, value: Any) -> str | None:
    """Sets `section.key` in place; returns what is wrong with the key, if anything. A name with dots in it is one where it is there."""
    parts = key.split(".")
    node: Any = settings
    while parts:
        if isinstance(node, list):
            if parts[0] not in map(str, range(len(node))):
                return f"{key}: there is no item {parts[0]}; {f'items 0 to {len(node) - 1} are there' if node else 'the list is empty'}"
            place: Any = int(parts.pop(0))
        elif isinstance(node, dict):
            whole = (count for count in range(len(parts), 0, -1) if ".".join(parts[:count]) in node)
            count = next(whole, 1)
            place, parts = ".".join(parts[:count]), parts[count:]
        else:
            return f"{key}: {parts[0]} stands below a value, not a section"
        if not parts:
            node[place] = value
        elif isinstance(node, dict) and node.get(place) is None:
            if parts[0].isdecimal():
                return f"{key}: there is no item {parts[0]}; {place} is not given"
            node[place] = {}
        node = node[place]
    return None


def validated(root: type[Root], settings: dict[Any, Any], hints: Mapping[str, str]) -> tuple[Root | None, list[str]]:
    """The settings as sections, or every mistake in words. hints: of names that are unknown here, what to give instead."""
    try:
        return root.model_validate(settings), []
    except ValidationError as error:
        return None, [mistake for detail in error.errors() for mistake in _explained(detail, root, hints)]


def _explained(detail: ErrorDetails, root: type[BaseModel], hints: Mapping[str, str]) -> list[str]:
    """Mistakes at one place in words: where, what is wrong, what it was."""
    where, given = ".".join(map(str, detail["loc"])), detail["input"]
    match detail["type"]:
        case "extra_forbidden":
            return [f"{where}: unknown; {_known_instead(detail['loc'], root, hints)}"]
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


def _known_instead(location: tuple[int | str, ...], root: type[BaseModel], hints: Mapping[str, str]) -> str:
    """What a person may have meant by a name that is unknown at its place."""
    *parents, name = location
    section = root
    for part in parents:
        section = dict(_sections_below(section)).get(str(part), section)  # the items of a list or a mapping are all of one kind
    if hint := hints.get(str(name)):
        return hint
    if elsewhere := [place for place in _settings_below(root, "") if place.split(".")[-1] == name]:
        return f"there is {' and '.join(elsewhere)}"
    close = difflib.get_close_matches(str(name), section.model_fields, n=1, cutoff=0.5)
    return f"did you mean {close[0]}?" if close else f"known here: {', '.join(section.model_fields)}"


def _sections_below(section: type[BaseModel]) -> Iterator[tuple[str, type[BaseModel]]]:
    """The settings of a section that are sections themselves, or lists or mappings of them."""
    for name, field in section.model_fields.items():
        for kind in (field.annotation, *get_args(field.annotation)):
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                yield name, kind


def _settings_below(section: type[BaseModel], place: str) -> Iterator[str]:
    """The dotted names of all settings in a section and in those below it."""
    below = dict(_sections_below(section))
    for name, field in section.model_fields.items():
        if name in below:
            origin = get_origin(field.annotation)
            item = ".0" if origin is list else ".section.key" if origin is dict else ""
            yield from _settings_below(below[name], f"{place}{name}{item}.")
        else:
            yield place + name
