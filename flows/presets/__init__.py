"""Presets: TOML files of what differs from the defaults, and KEY=VALUE assignments of the command line."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from data_contracts.errors import UnknownParameterError, UsageError
from data_contracts.params import Params, TrainParams


def assignments(pairs: Sequence[str] | None) -> dict[str, Any]:
    """KEY=VALUE pairs as a mapping; values are TOML where they parse as such, else text."""
    values: dict[str, Any] = {}
    for pair in pairs or ():
        key, equals, text = pair.partition("=")
        if not equals or not key:
            raise UsageError(f"--set takes KEY=VALUE, not {pair!r}")
        try:
            values[key.strip()] = tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError:
            values[key.strip()] = text
    return values


def distribute(values: dict[str, Any], kinds: Sequence[type[Params]], *, where: str) -> list[Any]:
    """Give each value to the parameter classes that have it; raises UnknownParameterError for one that none has."""
    known = {key for kind in kinds for key in kind.model_fields}
    unknown = sorted(set(values) - known)
    if unknown:
        raise UnknownParameterError(
            f"unknown parameter {unknown[0]!r}", where=where, todo=f"Known: {', '.join(sorted(known))}."
        )
    return [
        kind.from_mapping({key: value for key, value in values.items() if key in kind.model_fields}, where=where)
        for kind in kinds
    ]


def preset_names() -> list[str]:
    """Names of the presets that come with the program."""
    files = resources.files("flows.presets").iterdir()
    return sorted(file.name.removesuffix(".toml") for file in files if file.name.endswith(".toml"))


def train_params(preset: str, overrides: dict[str, Any]) -> TrainParams:
    """Training parameters of a preset (a name, or the path of a TOML file) with overrides on top.

    Raises
    ------
    UsageError: there is no such preset, or it is not TOML.
    UnknownParameterError: it has a key that training does not know.
    """
    path = Path(preset)
    if path.suffix == ".toml":
        if not path.is_file():
            raise UsageError("the preset file does not exist", where=preset)
        text, name = path.read_text(), path.stem
    elif preset in preset_names():
        text, name = (resources.files("flows.presets") / f"{preset}.toml").read_text(), preset
    else:
        raise UsageError(
            f"no preset {preset!r}", todo=f"Known: {', '.join(preset_names())}, or a path ending in .toml."
        )
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"the preset is not TOML ({error})", where=f"{name}.toml") from None
    return TrainParams.from_mapping({**values, "preset": name, **overrides}, where=f"preset {name}")
