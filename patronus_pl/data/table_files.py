"""Read tables as spreadsheets, pandas and scripts write them: CSV and TSV, Parquet, JSON."""

import codecs
import csv
import io
import json
from pathlib import Path
from typing import Any

from patronus_pl.data.table import Table
from patronus_pl.errors import AttributeTableError, CorruptFileError, DatasetNotFoundError, InvalidOptionError

SEPARATORS = ",;\t|"
LARGEST_FIELD = 2**27
"""Characters of the longest value; Python's own limit, 131,072, is less than a radiologist's report."""


def read_table(path: Path) -> Table:
    """Read a CSV or TSV, Parquet or JSON file (a list of records, or one record per line).

    In text files, the separator (comma, semicolon, tab or bar), UTF-8 or UTF-16, and decimal commas are recognised.

    Raises:
        DatasetNotFoundError: no such file.
        CorruptFileError: the file is not what its name says.
        AttributeTableError: two columns have one name.
        InvalidOptionError: another kind of file, or Parquet without pyarrow.
    """
    readers = {
        ".csv": _read_csv,
        ".tsv": _read_csv,
        ".txt": _read_csv,
        ".parquet": _read_parquet,
        ".json": _read_json,
        ".jsonl": _read_json,
    }
    if path.suffix.lower() not in readers:
        raise InvalidOptionError(f"cannot read {path} as a table; give one of {', '.join(readers)}")
    if not path.is_file():
        raise DatasetNotFoundError(f"no table {path}; give its path, absolute or from the data set's root")
    return readers[path.suffix.lower()](path)


def _text(path: Path) -> str:
    """Return the text of a file in UTF-8 or UTF-16, with or without a mark of its byte order."""
    data = path.read_bytes()
    encoding = "utf-8-sig"
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        encoding = "utf-16"
    elif len(data) > 3 and 0 in data[:4]:
        encoding = "utf-16-le" if data[1] == 0 else "utf-16-be"
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        raise CorruptFileError(f"{path} is no table of text in UTF-8 ({error}); save it as 'CSV UTF-8'") from error


def _read_csv(path: Path) -> Table:
    text = _text(path)
    first, _, rest = text.partition("\n")
    if first.strip().lower().startswith("sep=") and len(first.strip()) == 5:  # a line that Excel writes for itself
        separator, text = first.strip()[-1], rest
    else:
        separator = _separator(text)
    rows = [[value.strip() for value in row] for row in _rows(path, text, separator)]
    if not rows or not any(rows[0]):
        raise CorruptFileError(f"{path} is empty; it needs a line of column names")
    header, *body = rows
    numbers = [number for number, row in enumerate(body, 1) if any(row)]
    body = [row for row in body if any(row)]
    while header and not header[-1] and not any(any(row[len(header) - 1 :]) for row in body):  # trailing separators
        header = header[:-1]
    for i, row in enumerate(body):
        while len(row) > len(header) and not row[-1]:
            row = row[:-1]
        if len(row) != len(header):
            raise CorruptFileError(f"{path}: row {numbers[i]} has {len(row)} values for {len(header)} columns")
        body[i] = row
    columns = [[row[k] for row in body] for k in range(len(header))]
    return Table(path, _named(path, header, columns), numbers, comma_is_decimal=separator != ",")


def _rows(path: Path, text: str, separator: str) -> list[list[str]]:
    """Split text into rows; lines of a length of zero are left out."""
    before = csv.field_size_limit(LARGEST_FIELD)
    try:
        rows = list(csv.reader(io.StringIO(text, newline=""), delimiter=separator))
    except csv.Error as error:
        raise CorruptFileError(f"{path} is no table of text ({error}); save it as CSV in UTF-8") from error
    finally:
        csv.field_size_limit(before)
    return rows[next((i for i, row in enumerate(rows) if row), 0) :]


def _separator(text: str) -> str:
    """Return the separator by which the first rows have the most columns, equally many in each if possible."""
    head = "\n".join(text.splitlines()[:20])

    def fit(separator: str) -> tuple[bool, int]:
        try:
            rows = [row for row in csv.reader(io.StringIO(head, newline=""), delimiter=separator) if row]
        except csv.Error:
            return False, 0
        widths = {len(row) for row in rows}
        return len(widths) == 1 and max(widths) > 1, len(rows[0]) if rows else 0

    return max(SEPARATORS, key=fit)


def _named(path: Path, header: list[str], columns: list[list[str]]) -> dict[str, list[str]]:
    """Return columns by name. Of those without a name, the first stays, for it may name the images."""
    named: dict[str, list[str]] = {}
    for k, (name, column) in enumerate(zip(header, columns, strict=True)):
        if name in named and name:
            raise AttributeTableError(
                f"{path}: columns {list(named).index(name) + 1} and {k + 1} are both called {name!r}; rename one"
            )
        named.setdefault(name, column)
    return named


def _read_parquet(path: Path) -> Table:
    try:
        from pyarrow import parquet  # optional: only Parquet needs it
    except ImportError as error:
        raise InvalidOptionError(f"reading {path} needs pyarrow: pip install pyarrow, or save it as CSV") from error
    try:
        table = parquet.read_table(path)
        columns = [column.to_pylist() for column in table.columns]
    except (OSError, ValueError) as error:
        raise CorruptFileError(f"{path} is no Parquet file ({error}); write it again") from error
    names = [str(name) for name in table.column_names]
    return Table(path, _named(path, names, [[_word(value) for value in column] for column in columns]))


def _read_json(path: Path) -> Table:
    text = _text(path)
    first, _, more = text.strip().partition("\n")
    a_record_per_line = bool(more) and first.startswith("{") and first.rstrip().endswith("}")
    try:
        if path.suffix.lower() == ".jsonl" or a_record_per_line:
            records = [json.loads(line, object_pairs_hook=_record) for line in text.splitlines() if line.strip()]
        else:
            records = json.loads(text, object_pairs_hook=_record)
    except (ValueError, RecursionError) as error:
        raise CorruptFileError(f"{path} is no JSON file ({error}); write it again") from error
    return Table(path, records_to_columns(path, records))


def _record(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    record = dict(pairs)
    if len(record) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"a record has {twice!r} twice")
    return record


def records_to_columns(path: Path, records: Any) -> dict[str, list[str]]:
    """Return a list of records as columns; a record that lacks a field leaves it blank."""
    if not isinstance(records, list) or not all(isinstance(record, dict) for record in records):
        raise CorruptFileError(f'{path} holds no list of records, as in [{{"image": "00000.png", "Smiling": 1}}]')
    names = list(dict.fromkeys(name for record in records for name in record))
    return {name: [_word(record.get(name)) for record in records] for name in names}


def _word(value: Any) -> str:
    """Return a value as text; 7.0, which pandas makes of 7 beside a blank, as 7."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return "" if value is None or value != value else str(value).strip()
