"""What every class of parameters can: values from a mapping, errors by name, a digest."""

from __future__ import annotations

from typing import Any, Self

from pydantic import ConfigDict, ValidationError

from data_contracts.errors import UnknownParameterError, UsageError
from data_contracts.records import Record, digest_of


class Params(Record):
    """Base: values from a mapping, errors by name."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @classmethod
    def from_mapping(cls, values: dict[str, Any], *, where: str = "") -> Self:
        """Parameters from a preset or from --set options.

        Raises
        ------
        UnknownParameterError: a key that the step does not have.
        UsageError: a value of the wrong kind or out of range, or what is no mapping at all.
        """
        if not isinstance(values, dict):
            raise UsageError("parameters are names with values", where=where)
        unknown = sorted(set(values) - set(cls.model_fields))
        if unknown:
            raise UnknownParameterError(
                f"unknown parameter {unknown[0]!r}", where=where, todo=f"Known: {', '.join(sorted(cls.model_fields))}."
            )
        try:
            return cls.model_validate({key: cls._as_text(key, value) for key, value in values.items()})
        except ValidationError as error:
            first = error.errors(include_input=False, include_url=False)[0]
            field = ".".join(str(part) for part in first["loc"])
            what = first["msg"].removeprefix("Value error, ")
            raise UsageError(f"parameter {field!r}: {what}" if field else what, where=where) from None

    @classmethod
    def _as_text(cls, key: str, value: object) -> object:
        """A whole number as text where text is asked for: a version or a site may be called 1."""
        return str(value) if cls.model_fields[key].annotation is str and type(value) is int else value

    def digest(self) -> str:
        """Short digest of all values."""
        return digest_of(self.model_dump(mode="json"))
