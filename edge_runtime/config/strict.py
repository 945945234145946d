"""Plain data to a Struct: an unknown key is an error that lists the valid ones."""

from __future__ import annotations

from typing import Annotated, Any, get_args, get_origin

import msgspec
from msgspec import Struct, UnsetType

from edge_runtime.errors import ConfigError


def convert_strict(data: Any, kind: Any, where: str) -> Any:
    """`data` (plain dicts and lists) as the Struct `kind`. Raises ConfigError naming the key and what is allowed."""
    _check_keys(data, kind, where)
    try:
        return msgspec.convert(data, kind)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{where}: {str(error).replace('$.', '').replace('`', '')}") from None


def _check_keys(data: Any, kind: Any, where: str) -> None:
    """Walk `data` beside its type, so that an unknown key's error can list the valid ones."""
    if get_origin(kind) is Annotated:
        kind = get_args(kind)[0]
    arguments = tuple(argument for argument in get_args(kind) if argument not in (type(None), UnsetType))
    if len(arguments) == 1 and len(get_args(kind)) == 2:
        kind, arguments = arguments[0], get_args(arguments[0])
    if isinstance(data, list) and arguments:
        for index, item in enumerate(data):
            _check_keys(item, arguments[0], f"{where}: item {index + 1}")
    elif isinstance(data, dict) and isinstance(kind, type) and issubclass(kind, Struct):
        fields = {field.encode_name: field.type for field in msgspec.structs.fields(kind)}
        tag = kind.__struct_config__.tag_field
        for key, value in data.items():
            if key not in fields and key != tag:
                raise ConfigError(f"{where}: unknown key {key!r}; valid keys are {', '.join(sorted(fields))}")
            if key in fields:
                _check_keys(value, fields[key], f"{where}: {key}")
    elif isinstance(data, dict) and arguments:
        tagged = {
            choice.__struct_config__.tag: choice
            for choice in arguments
            if isinstance(choice, type) and issubclass(choice, Struct) and choice.__struct_config__.tag_field in data
        }
        if tagged:
            field = next(iter(tagged.values())).__struct_config__.tag_field
            choice = tagged.get(data[field])
            if choice is None:
                raise ConfigError(f"{where}: {field} is {data[field]!r}; there are {', '.join(map(str, tagged))}")
            _check_keys(data, choice, where)
