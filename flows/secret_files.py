"""Secrets that stand in a file of their own, as container engines, systemd and Kubernetes hand them over."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pydantic import SecretStr
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource

from data_contracts.errors import UsageError

_PREFIX, _SUFFIX = "NODULEFLOW_", "_FILE"
_MOST_BYTES = 64 * 1024


class SecretFiles(PydanticBaseSettingsSource):
    """Settings from the files that NODULEFLOW_<FIELD>_FILE name, for the fields that hold a secret.

    The variable stands in the environment, or else in the file .env that `dotenv` has read.
    """

    def __init__(self, settings_cls: type[BaseSettings], dotenv: PydanticBaseSettingsSource) -> None:
        super().__init__(settings_cls)
        self._dotenv = getattr(dotenv, "env_vars", {})

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        """(content of the file without its last line end, or None; name of the field; False: it is plain text).

        Raises
        ------
        UsageError: the file cannot be read, is empty or too large, or the variable itself is set too.
        """
        name = f"{_PREFIX}{field_name.upper()}"
        file = os.environ.get(name + _SUFFIX)
        if file is None and name not in os.environ:
            file = self._dotenv.get((name + _SUFFIX).lower())
        if not file or SecretStr.__name__ not in str(field.annotation):
            return None, field_name, False
        if os.environ.get(name):
            raise UsageError(f"both {name} and {name}{_SUFFIX} are set", todo="Keep one of them.")
        return read_secret(Path(file), name + _SUFFIX), field_name, False

    def __call__(self) -> dict[str, Any]:
        """Every setting that a file gives."""
        found = {name: self.get_field_value(field, name)[0] for name, field in self.settings_cls.model_fields.items()}
        return {name: value for name, value in found.items() if value is not None}


def read_secret(file: Path, variable: str) -> str:
    """What a file of a secret holds; raises UsageError, which names the variable and never the content."""
    try:
        with file.open("rb") as stream:
            content = stream.read(_MOST_BYTES + 1)
        text = content.decode().rstrip("\r\n")
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise UsageError(f"the file of {variable} cannot be read ({reason})", where=str(file)) from None
    except UnicodeDecodeError:
        raise UsageError(f"the file of {variable} is not text", where=str(file)) from None
    if not text or len(content) > _MOST_BYTES:
        raise UsageError(f"the file of {variable} is {'empty' if not text else 'too large'}", where=str(file))
    return text


def named_files(names: Iterable[str]) -> tuple[str | None, ...]:
    """For each setting, which file it is from and when that changed; None where it is from none."""
    found: list[str | None] = []
    for name in names:
        file = os.environ.get(f"{_PREFIX}{name}{_SUFFIX}")
        try:
            found.append(f"{file} {Path(file).stat().st_mtime_ns}" if file else None)
        except OSError:
            found.append(file)
    return tuple(found)
