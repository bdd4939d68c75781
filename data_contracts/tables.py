"""Validated Parquet tables: checked on write and on read, whole or not at all, with a schema version."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pandera.pandas as pa
import pyarrow as arrow
import pyarrow.parquet as parquet

from data_contracts.errors import ContractError, SchemaVersionError
from data_contracts.records import atomic_path

_VERSION_KEY = b"noduleflow_schema_version"


@dataclass(frozen=True)
class TableContract:
    """A named table: its pandera schema and its version.

    Columns beyond the schema may stand beside the ones it names.
    """

    name: str
    schema: pa.DataFrameSchema
    version: int = 1

    def empty(self) -> pd.DataFrame:
        """A table without rows that satisfies the contract."""
        columns = {
            name: pd.Series([], dtype=str(column.dtype) if column.dtype else "object")
            for name, column in self.schema.columns.items()
        }
        return pd.DataFrame(columns)

    def validate(self, table: pd.DataFrame, *, where: str = "") -> pd.DataFrame:
        """The table, coerced to the contract's types.

        Raises
        ------
        ContractError: names the column and the check that failed; never shows a cell's value.
        """
        try:
            return self.schema.validate(table, lazy=True)
        except pa.errors.SchemaErrors as error:
            cases = error.failure_cases
            first = cases.iloc[0]
            column = first.get("column") or first.get("failure_case")
            raise ContractError(
                f"table {self.name}: column {column!r} breaks the check {first['check']!r} ({len(cases)} cases)",
                where=where,
            ) from None

    def write(self, path: Path, table: pd.DataFrame) -> None:
        """Validate and write the table, whole or not at all."""
        valid = self.validate(table, where=path.name)
        body = arrow.Table.from_pandas(valid, preserve_index=False)
        metadata = {**(body.schema.metadata or {}), _VERSION_KEY: str(self.version).encode()}
        with atomic_path(path) as temporary:
            parquet.write_table(body.replace_schema_metadata(metadata), temporary)

    def read(self, path: Path) -> pd.DataFrame:
        """Read and validate the table.

        Raises
        ------
        ContractError: the file is missing, torn or breaks the contract.
        SchemaVersionError: another schema version wrote it.
        """
        try:
            body = parquet.read_table(path)
        except FileNotFoundError:
            raise ContractError(f"table {self.name} is not there", where=path.name) from None
        except (arrow.ArrowInvalid, OSError) as error:
            raise ContractError(f"table {self.name} cannot be read", where=path.name) from error
        version = int((body.schema.metadata or {}).get(_VERSION_KEY, b"1"))
        if version != self.version:
            raise SchemaVersionError(
                f"table {self.name} has schema version {version}, this program reads {self.version}",
                where=path.name,
                todo="Use the noduleflow version that wrote it, or run the step again.",
            )
        return self.validate(body.to_pandas(), where=path.name)
