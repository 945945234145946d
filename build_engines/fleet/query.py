"""An index asked in SQL, by DuckDB."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from build_engines.fleet.index import TABLES, read_index
from edge_runtime.errors import UserError


def ask(folder: Path, question: str) -> tuple[Sequence[str], list[tuple[Any, ...]]]:
    """Names of the columns, and the rows, of a SELECT over the tables of an index. Raises UserError."""
    read_index(folder)
    try:
        import duckdb
    except ModuleNotFoundError:
        raise UserError("a question to an index needs DuckDB; pip install 'edge-runtime[fleet]'") from None
    # Nothing is fetched from anywhere, and rows come in the order that is asked for.
    settings: dict[str, str | bool | int | float | list[str]] = {
        "autoinstall_known_extensions": "false",
        "autoload_known_extensions": "false",
        "threads": "1",
    }
    with duckdb.connect(config=settings) as connection:
        for table in TABLES:
            path = str(folder / f"{table}.parquet").replace("'", "''")
            connection.execute(f"CREATE VIEW {table} AS SELECT * FROM read_parquet('{path}')")
        try:
            found = connection.execute(question)
            return [column[0] for column in found.description or ()], found.fetchall()
        except duckdb.Error as error:
            first = str(error).partition("\n")[0]
            raise UserError(f"index {folder}: the question is not understood: {first}") from None
