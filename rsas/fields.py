"""Check and parse the fields of frozen dataclasses that users set."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import json
import math
import types
import typing
from collections.abc import Hashable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin

from rsas.errors import InputError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

__all__ = ["is_number", "parse_assignments", "range_of", "require_field", "validate"]


def is_number(value: object) -> bool:
    """Return whether a value is an integer or a float; True and False are not."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def range_of(
    low: float, high: float, *, open_low: bool = False, open_high: bool = False
) -> dict[str, Any]:
    """Return field metadata: the interval from ``low`` to ``high``, each end closed unless open."""
    return {"range": (low, high, open_low, open_high)}


def parse_assignments(
    cls: type, assignments: Iterable[str], *, others: bool = False
) -> dict[str, Any]:
    """Return ``{"epochs": 5}`` for ``["epochs=5"]``, typed by the fields of the dataclass ``cls``.

    Args:
        cls: the dataclass.
        assignments: texts of the form NAME=VALUE.
        others: allow other names, whose values are read as JSON, or else as texts.

    Raises:
        InputError: an assignment has no ``=``, or ``cls`` has no such field.
    """
    values: dict[str, Any] = {}
    for text in assignments:
        name, equals, value = text.partition("=")
        name = name.strip()
        if not equals:
            raise InputError(f"{text!r}: expected NAME=VALUE, such as epochs=5")
        if not others:
            require_field(cls, name)
        values[name] = _parse(value.strip(), _types(cls).get(name, Any))
    return values


def validate(config: DataclassInstance, names: Iterable[str] | None = None) -> None:
    """Check the fields of a frozen dataclass, or those named, against type, choices and range.

    Integers given for float fields and lists given for tuple fields are converted in place.

    Raises:
        InputError: a value is invalid; the message names the field, the value and what is expected.
    """
    for f in dataclasses.fields(config):
        if names is not None and f.name not in names:
            continue
        value = getattr(config, f.name)
        kind = _types(type(config))[f.name]
        if isinstance(kind, types.UnionType):  # float | None
            if value is None:
                continue
            kind = get_args(kind)[0]
        converted, ok = _convert(value, kind)
        if ok and "range" in f.metadata:
            low, high, open_low, open_high = f.metadata["range"]
            ok = low < converted if open_low else low <= converted
            ok = ok and (converted < high if open_high else converted <= high)
        if not ok:
            expected = _expected(kind, f.metadata.get("range"))
            raise InputError(f"{f.name}={value!r}: expected {expected}")
        object.__setattr__(config, f.name, converted)


@functools.cache
def _types(cls: Hashable) -> dict[str, Any]:
    return typing.get_type_hints(cls)


def require_field(cls: type, name: str) -> None:
    """Check that the dataclass has a field of this name.

    Raises:
        InputError: the dataclass has no such field; the message names the field that is nearest.
    """
    names = [f.name for f in dataclasses.fields(cls)]
    if name not in names:
        close = difflib.get_close_matches(name, names, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"the fields are {', '.join(names)}"
        raise InputError(f"unknown field {name!r} of {cls.__name__}: {hint}")


def _convert(value: Any, kind: Any) -> tuple[Any, bool]:
    """Return ``value`` converted to ``kind``, and whether the result is of that type."""
    if get_origin(kind) is Literal:
        return value, value in get_args(kind)
    if get_origin(kind) is tuple:
        if kind == _PAIRS and isinstance(value, Mapping):
            value = list(value.items())
        if not isinstance(value, (list, tuple)):
            return value, False
        first, *rest = get_args(kind)
        kinds = [first] * len(value) if rest == [...] else [first, *rest]
        if len(kinds) != len(value):
            return value, False
        items = [_convert(item, kind) for item, kind in zip(value, kinds, strict=True)]
        return tuple(item for item, _ in items), all(ok for _, ok in items)
    if get_origin(kind) is Mapping:
        return value, isinstance(value, Mapping) and all(isinstance(key, str) for key in value)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        try:
            return float(value), True
        except OverflowError:
            return value, False
    if kind is float:
        return value, isinstance(value, float) and math.isfinite(value)
    if kind is int:
        return value, isinstance(value, int) and not isinstance(value, bool)
    return value, isinstance(value, kind)


def _parse(text: str, kind: Any) -> Any:
    """Return the value of a text for a field of this type; ``validate`` rejects invalid texts."""
    if kind is Any:
        try:
            return json.loads(text)
        except (ValueError, RecursionError):
            return text
    if kind is bool:
        return {"true": True, "false": False}.get(text.lower(), text)
    try:
        if kind in (int, float):
            return kind(text)
        if kind == _TEXTS and not text.startswith("["):
            return [part.strip() for part in text.split(",") if part.strip()]
        if get_origin(kind) is tuple:
            return json.loads(text if text[:1] in "[{" and text else f"[{text}]")
    except (ValueError, RecursionError):
        pass
    return text


def _expected(kind: Any, interval: tuple[float, float, bool, bool] | None) -> str:
    if get_origin(kind) is Literal:
        return "one of " + ", ".join(get_args(kind))
    if kind == _PAIRS:
        return """a mapping of texts to numbers, such as {"fc1": 0.1, "*": 1}"""
    if get_origin(kind) is Mapping:
        return "a mapping of names to values"
    if get_origin(kind) is tuple:
        return f"a list of {_NOUN[get_args(kind)[0]]}s, such as {_EXAMPLE[get_args(kind)[0]]}"
    if interval is None:
        return f"a {_NOUN[kind]}"
    low, high, open_low, open_high = interval
    article = "an" if kind is int else "a"
    first, last = "(" if open_low else "[", ")" if open_high else "]"
    return f"{article} {_NOUN[kind]} in {first}{low:g}, {high:g}{last}"


_TEXTS = tuple[str, ...]
_PAIRS = tuple[tuple[str, float], ...]
_NOUN: types.MappingProxyType[type, str] = types.MappingProxyType(
    {int: "integer", float: "number", str: "text", bool: "true or false value"}
)
_EXAMPLE: types.MappingProxyType[type, str] = types.MappingProxyType(
    {int: "300,100", float: "0.5,0.25", str: "fc1,features.*"}
)
