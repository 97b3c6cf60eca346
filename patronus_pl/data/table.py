"""`Table`: columns of a CSV, Parquet or JSON file, read as attributes."""

import csv
import json
import operator
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from patronus_pl.errors import AttributeTableError, CorruptFileError, DatasetNotFoundError, InvalidOptionError

CONDITION = re.compile(r"(.+?)\s*(>=|<=|=|>|<)\s*(.+)")
COMPARE: dict[str, Callable[[Any, Any], Any]] = {
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
}
WORDS = {"true": 1.0, "false": 0.0}
UNKNOWN = {"", "nan", "none", "null"}


class Table:
    """Named columns of text.

    Args:
        path: where they come from, for messages.
        columns: column name → a value each row.
    """

    def __init__(self, path: Path, columns: dict[str, list[str]]) -> None:
        self.path, self.columns = path, columns

    def column(self, name: str) -> list[str]:
        """One column.

        Raises:
            AttributeTableError: there is none of this name.
        """
        if name not in self.columns:
            raise AttributeTableError(f"{self.path} has no column {name!r}; it has {', '.join(self.columns)}")
        return self.columns[name]

    def unique(self, name: str) -> list[str]:
        """One column whose values may not repeat.

        Raises:
            AttributeTableError: no such column, or a value that appears twice.
        """
        seen: dict[str, int] = {}
        for row, value in enumerate(self.column(name)):
            if value in seen:
                raise AttributeTableError(
                    f"{self.path}: {name} {value!r} is in row {seen[value] + 1} and in row {row + 1}; remove one"
                )
            seen[value] = row
        return list(seen)

    def attribute(self, expression: str) -> NDArray[np.float32]:
        """One attribute: (n,) of 0, 1 or NaN (unknown).

        Args:
            expression: a column of 0/1 or -1/1 (or false/true), `column=value`, or `column>number` (also >=, <, <=).

        Raises:
            AttributeTableError: no such column, or a value that is no attribute.
        """
        condition = CONDITION.fullmatch(expression)
        if expression in self.columns or condition is None:
            return self._binary(expression)
        name, symbol, value = condition.groups()
        return self._equal(name, value) if symbol == "=" else self._compare(name, symbol, value)

    def numbers(self, name: str) -> NDArray[np.float64]:
        """One column as numbers, NaN where blank."""
        known = {
            value: np.nan if _unknown(value) else self._number(name, value)
            for value in dict.fromkeys(self.column(name))
        }
        return np.array([known[value] for value in self.column(name)], np.float64)

    def _number(self, name: str, value: str) -> float:
        try:
            return WORDS[value.lower()] if value.lower() in WORDS else float(value)
        except ValueError:
            raise self._not_an_attribute(name, value) from None

    def _equal(self, name: str, value: str) -> NDArray[np.float32]:
        if value not in self.column(name):
            found = ", ".join(sorted(set(self.column(name)))[:10])
            raise AttributeTableError(f"{self.path}: no {name} is {value!r}; found {found}")
        return np.array([np.nan if _unknown(v) else float(v == value) for v in self.column(name)], np.float32)

    def _compare(self, name: str, symbol: str, value: str) -> NDArray[np.float32]:
        numbers = self.numbers(name)
        try:
            holds = COMPARE[symbol](numbers, float(value))
        except ValueError as error:
            raise InvalidOptionError(
                f"cannot compare {name!r} with {value!r}; write a number, as in 'age>60'"
            ) from error
        return np.where(np.isnan(numbers), np.nan, holds).astype(np.float32)

    def _binary(self, name: str) -> NDArray[np.float32]:
        numbers = self.numbers(name)
        allowed = (0, 1) if (numbers == 0).any() else (-1, 1)
        wrong = np.flatnonzero(~np.isnan(numbers) & ~np.isin(numbers, allowed))
        if len(wrong):
            raise self._not_an_attribute(name, self.column(name)[wrong[0]])
        return np.where(numbers == -1, 0, numbers).astype(np.float32)

    def _not_an_attribute(self, name: str, value: str) -> AttributeTableError:
        row = self.column(name).index(value) + 1
        return AttributeTableError(
            f"{self.path}: column {name!r} holds {value!r} in row {row}; an attribute is 0/1 or -1/1 throughout, blank "
            f"where unknown. Mend it, or name the attributes to read, as in 'age>60' or 'sex=F'"
        )


def _unknown(value: str) -> bool:
    return value.lower() in UNKNOWN


def read_table(path: Path) -> Table:
    """A CSV (or TSV), Parquet or JSON (a list of records) file.

    Raises:
        DatasetNotFoundError: no such file.
        CorruptFileError: it is not what its name says.
        InvalidOptionError: another kind of file, or Parquet without pyarrow.
    """
    readers = {".csv": _read_csv, ".tsv": _read_csv, ".parquet": _read_parquet, ".json": _read_json}
    if path.suffix.lower() not in readers:
        raise InvalidOptionError(f"cannot read {path} as a table; give one of {', '.join(readers)}")
    if not path.is_file():
        raise DatasetNotFoundError(f"no table {path}; give its path, absolute or from the data set's root")
    return Table(path, readers[path.suffix.lower()](path))


def _read_csv(path: Path) -> dict[str, list[str]]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.reader(file, delimiter="\t" if path.suffix.lower() == ".tsv" else ","))
    except (csv.Error, UnicodeDecodeError) as error:
        raise CorruptFileError(f"{path} is no table of text ({error}); save it as CSV in UTF-8") from error
    rows = [[value.strip() for value in row] for row in rows if row]
    if not rows:
        raise CorruptFileError(f"{path} is empty; it needs a line of column names")
    for number, row in enumerate(rows):
        if len(row) != len(rows[0]):
            raise CorruptFileError(f"{path}: row {number} has {len(row)} values for {len(rows[0])} columns")
    return (
        dict(zip(rows[0], map(list, zip(*rows[1:], strict=True)), strict=True))
        if rows[1:]
        else {n: [] for n in rows[0]}
    )


def _read_parquet(path: Path) -> dict[str, list[str]]:
    try:
        from pyarrow import parquet  # optional: only Parquet needs it
    except ImportError as error:
        raise InvalidOptionError(f"reading {path} needs pyarrow: pip install pyarrow, or save it as CSV") from error
    try:
        columns = parquet.read_table(path).to_pydict()
    except (OSError, ValueError) as error:
        raise CorruptFileError(f"{path} is no Parquet file ({error}); write it again") from error
    return {str(name): [_text(value) for value in values] for name, values in columns.items()}


def _read_json(path: Path) -> dict[str, list[str]]:
    try:
        records = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CorruptFileError(f"{path} is no JSON file ({error}); write it again") from error
    return records_to_columns(path, records)


def records_to_columns(path: Path, records: Any) -> dict[str, list[str]]:
    """A list of records → columns; a record that lacks a field leaves it blank."""
    if not isinstance(records, list) or not all(isinstance(record, dict) for record in records):
        raise CorruptFileError(f'{path} holds no list of records, as in [{{"image": "00000.png", "Smiling": 1}}]')
    names = list(dict.fromkeys(name for record in records for name in record))
    return {name: [_text(record.get(name)) for record in records] for name in names}


def _text(value: Any) -> str:
    return "" if value is None else str(value).strip()
