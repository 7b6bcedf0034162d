"""The published JSON schema of placements, and the bodies it admits: what is published is what is checked."""

from __future__ import annotations

import json
import re
from functools import cache
from importlib.resources import files
from typing import Any

from sbs_opt.models.errors import InputError

_TYPES: dict[str, type] = {"object": dict, "array": list, "string": str, "integer": int}
_ARTICLE = {"object": "a JSON object", "array": "a list", "string": "a text", "integer": "a whole number"}
_SHOWN = 40
"""Characters of a wrong value that an error repeats."""


def schema_text() -> str:
    """Return the schema as it is published."""
    return files(__package__).joinpath("placements.schema.json").read_text(encoding="utf-8")


def read_body(body: bytes, definition: str) -> dict[str, Any]:
    """Return the object in a body, an empty one standing for no fields.

    Parameters
    ----------
    body
        JSON.
    definition
        Which of the schema's `$defs` it must satisfy.

    Raises
    ------
    InputError
        Not JSON, or against the schema; it names the field.
    """
    try:
        value = json.loads(body or b"{}", parse_float=_number, parse_constant=_no_number)
    except RecursionError as error:
        raise InputError("body: is nested too deeply; send one flat JSON object") from error
    except ValueError as error:
        raise InputError("body: is not JSON; send one JSON object") from error
    check(value, _definitions()[definition], "body")
    fields: dict[str, Any] = value
    return fields


def check(value: Any, schema: dict[str, Any], field: str) -> None:
    """Raise an InputError naming the first field of a value that is against a schema.

    Notes
    -----
    It knows the keywords that the published definitions of bodies use, and no others.
    """
    kind = schema["type"]
    if not isinstance(value, _TYPES[kind]) or isinstance(value, bool):
        raise InputError(f"{field} = {_show(value)}: must be {_ARTICLE[kind]}")
    if isinstance(value, dict):
        properties = schema["properties"]
        for name in schema.get("required", ()):
            if name not in value:
                raise InputError(f"{name}: is missing; give {_ARTICLE[properties[name]['type']]}")
        for name, entry in value.items():
            if name not in properties:
                raise InputError(f"{_show(name)}: unknown field; known: {', '.join(properties)}")
            check(entry, properties[name], name)
    elif isinstance(value, list):
        for k, entry in enumerate(value):
            check(entry, schema["items"], f"{field}[{k}]")
    elif isinstance(value, str):
        if "pattern" in schema and not re.fullmatch(schema["pattern"], value):
            raise InputError(f"{field} = {_show(value)}: must match {schema['pattern']}")
        if len(value) > schema.get("maxLength", len(value)):
            raise InputError(f"{field}: has {len(value)} characters; at most {schema['maxLength']} are taken")
    elif not schema["minimum"] <= value <= schema["maximum"]:
        raise InputError(f"{field} = {_show(value)}: must be from {schema['minimum']} to {schema['maximum']}")


@cache
def _definitions() -> dict[str, dict[str, Any]]:
    definitions: dict[str, dict[str, Any]] = json.loads(schema_text())["$defs"]
    return definitions


def _number(text: str) -> int | float:
    """Return 1.0 as 1: to JSON they are one number."""
    number = float(text)
    return int(number) if number.is_integer() else number


def _no_number(text: str) -> float:
    raise ValueError(f"{text} is not JSON")


def _show(value: Any) -> str:
    # Only what is shown is turned into text: a value can be as long as a body. It may hold half a character.
    if isinstance(value, dict | list):
        return _ARTICLE["object" if isinstance(value, dict) else "array"]
    if isinstance(value, int) and abs(value) >> 128:
        return "a number of many digits"
    shown = ascii(value[: _SHOWN + 1] if isinstance(value, str) else value)
    return shown if len(shown) <= _SHOWN else shown[:_SHOWN] + "…"
