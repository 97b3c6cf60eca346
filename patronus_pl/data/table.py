"""`Table`: columns of text, read as attributes of 0 and 1."""

import operator
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from patronus_pl.errors import AttributeTableError, InvalidOptionError

CONDITION = re.compile(r"(.+?)\s*(>=|<=|=|>|<)\s*(.+)")
COMPARE: dict[str, Callable[[Any, Any], Any]] = {
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
}
DECIMAL_COMMA = re.compile(r"[+-]?\d*,\d+")
TRUE = ("true", "yes", "wahr", "vrai", "verdadero", "verdadeiro", "vero", "waar", "prawda", "истина")
FALSE = ("false", "no", "falsch", "faux", "falso", "onwaar", "fałsz", "ложь")
WORDS = dict.fromkeys(TRUE, 1.0) | dict.fromkeys(FALSE, 0.0)
"""How spreadsheets of several languages write 1 and 0."""
UNKNOWN = {"", "nan", "none", "null", "na", "n/a", "#n/a", "<na>"}
NAMELESS = re.compile(r"|Unnamed: \d+|__index_level_\d+__")
"""Names of columns that have none: the index that pandas writes beside the data."""


class Table:
    """Named columns of text.

    Args:
        path: file that they come from, for messages.
        columns: column name → one value per row.
        numbers: number of each row in the file, the header not counted; by default 1, 2, 3, ...
        comma_is_decimal: numbers may be written 0,5.
    """

    def __init__(
        self,
        path: Path,
        columns: dict[str, list[str]],
        numbers: Sequence[int] | None = None,
        comma_is_decimal: bool = False,
    ) -> None:
        self.path, self.columns, self.comma_is_decimal = path, columns, comma_is_decimal
        count = len(next(iter(columns.values()), []))
        self.row_numbers = list(range(1, count + 1)) if numbers is None else list(numbers)

    def column(self, name: str) -> list[str]:
        """Return one column.

        Raises:
            AttributeTableError: there is none of this name.
        """
        if name not in self.columns:
            raise AttributeTableError(f"{self.path} has no column {name!r}; it has {', '.join(self.columns)}")
        return self.columns[name]

    def unique(self, name: str) -> list[str]:
        """Return one column whose values may not repeat.

        Raises:
            AttributeTableError: no such column, or a value that appears twice.
        """
        seen: dict[str, int] = {}
        for row, value in enumerate(self.column(name)):
            if value in seen:
                raise self.repeated(name, value, seen[value], row)
            seen[value] = row
        return list(seen)

    def repeated(self, name: str, value: str, first: int, second: int) -> AttributeTableError:
        """Return the error that says that two rows name one thing."""
        rows, other = self.row_numbers, self.columns[name][second]
        also = "" if other == value else f" (as {other!r})"
        return AttributeTableError(
            f"{self.path}: {name} {value!r} is in row {rows[first]} and in row {rows[second]}{also}; remove one"
        )

    def attribute(self, expression: str) -> NDArray[np.float32]:
        """Return one attribute: (n,) of 0, 1 or NaN (unknown).

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

    def attribute_columns(self) -> list[str]:
        """Return the names of the columns that have one."""
        return [name for name in self.columns if not NAMELESS.fullmatch(name)]

    def numbers(self, name: str) -> NDArray[np.float64]:
        """Return one column as numbers, NaN where blank."""
        known = {
            value: np.nan if _unknown(value) else self._number(name, value)
            for value in dict.fromkeys(self.column(name))
        }
        return np.array([known[value] for value in self.column(name)], np.float64)

    def _number(self, name: str, value: str) -> float:
        try:
            return WORDS[value.lower()] if value.lower() in WORDS else self._parsed(value)
        except ValueError:
            raise self._not_an_attribute(name, value) from None

    def _parsed(self, value: str) -> float:
        if "_" in value:  # Python would read 1_0 as 10
            raise ValueError(value)
        return float(value.replace(",", ".") if self.comma_is_decimal and DECIMAL_COMMA.fullmatch(value) else value)

    def _equal(self, name: str, value: str) -> NDArray[np.float32]:
        if value not in self.column(name):
            found = ", ".join(sorted(set(self.column(name)))[:10])
            raise AttributeTableError(f"{self.path}: no {name} is {value!r}; found {found}")
        return np.array(
            [np.nan if _unknown(v) and v != value else float(v == value) for v in self.column(name)], np.float32
        )

    def _compare(self, name: str, symbol: str, value: str) -> NDArray[np.float32]:
        numbers = self.numbers(name)
        try:
            holds = COMPARE[symbol](numbers, self._parsed(value))
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
        row = self.row_numbers[self.column(name).index(value)]
        return AttributeTableError(
            f"{self.path}: column {name!r} holds {value!r} in row {row}; an attribute is 0/1 or -1/1 throughout, blank "
            f"where unknown. Mend it, or name the attributes to read, as in 'age>60' or 'sex=F'"
        )


def _unknown(value: str) -> bool:
    return value.lower() in UNKNOWN
