"""Files of settings: YAML with overrides to sections; unknown keys are mistakes, and all mistakes are told at once."""

from __future__ import annotations

import difflib
import os
import stat
from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from ray_s2v.schema import ConfigError

Root = TypeVar("Root", bound=BaseModel)
MAX_BYTES = 1 << 20  # of a file; the annotated job has 6 kB
MAX_VALUES = 100_000  # of a document, each alias counted as what it stands for
MAX_BITS = 1024  # of a whole number; Python does not even print those of 15,000
MAX_DOTS = 100  # of a setting's name
MAX_SHOWN = 200  # letters of a value that a message repeats


class _Loader(yaml.SafeLoader):
    """YAML without the traps of a key given twice, of which the last would win, and of aliases of aliases that stand for billions."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.sizes: dict[int, int] = {}  # values in each finished node, by its identity

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        event = self.peek_event()
        node = super().compose_node(parent, index)
        if isinstance(event, yaml.AliasEvent):
            if id(node) not in self.sizes:
                raise yaml.YAMLError(f"an alias within what it stands for\n{event.start_mark}")
            return node
        inside: Iterable[yaml.Node] = ()
        if isinstance(node, yaml.CollectionNode):
            inside = chain.from_iterable(node.value) if isinstance(node, yaml.MappingNode) else node.value
        self.sizes[id(node)] = 1 + sum(self.sizes[id(part)] for part in inside)
        if self.sizes[id(node)] > MAX_VALUES:
            raise yaml.YAMLError(f"more than {MAX_VALUES} values, aliases counted as what they stand for\n{event.start_mark}")
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        if not isinstance(node, yaml.MappingNode):
            raise yaml.constructor.ConstructorError(None, None, "expected a mapping", node.start_mark)
        keys = [self.construct_object(key, deep=True) for key, _ in node.value if key.tag != "tag:yaml.org,2002:merge"]
        counts = Counter(key for key in keys if isinstance(key, Hashable))
        if twice := {str(key) for key, count in counts.items() if count > 1}:
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
        return {_unshared(key): _unshared(item) for key, item in value.items()}
    if isinstance(value, int) and value.bit_length() > MAX_BITS:
        raise ValueError(f"a whole number of more than {MAX_BITS} bits")
    return [_unshared(item) for item in value] if isinstance(value, list) else value


def _read(path: str) -> str:
    """The text of a file. Raises OSError, ValueError; a pipe, which may never end, is none."""
    info = os.stat(path)
    if not stat.S_ISREG(info.st_mode):
        raise ValueError("must be a file")
    if info.st_size > MAX_BYTES:
        raise ValueError(f"has {info.st_size} bytes, more than {MAX_BYTES}")
    return Path(path).read_text(encoding="utf-8")


def read_settings(path: str, wanted: str) -> dict[Any, Any]:
    """The mapping in a YAML file. Raises ConfigError; `wanted` says what the file should hold."""
    try:
        settings = _parsed(_read(path))
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
    if not equals or not all(key.split(".")) or key.count(".") > MAX_DOTS:
        raise ConfigError(f"{_shortened(repr(text))}: an override reads section.key=value")
    try:
        return key, _parsed(value)
    except yaml.YAMLError as error:
        raise ConfigError(f"{_shortened(repr(text))}: the value is no readable YAML") from error


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
    was = "" if isinstance(given, dict | list | BaseModel) else f" (it is {_shortened(repr(given))})"
    return [f"{where}: {line}{was}" if where else line for line in message.split("\n")]


def _shortened(text: str) -> str:
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}..."


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
