import json
import sys
from pathlib import Path

import numpy as np
import pytest

from patronus_pl.data.table import Table
from patronus_pl.data.table_files import read_table
from patronus_pl.errors import AttributeTableError, CorruptFileError, DatasetNotFoundError, InvalidOptionError

CSV = "\ufeffimage,hat,round,sex,age,word\na.png,0,-1,F,30,x\nb.png,1.0,1,M,70.5,0\nc.png,,1,,,1\n"


@pytest.fixture
def table(tmp_path: Path) -> Table:
    (tmp_path / "t.csv").write_text(CSV, encoding="utf-8")
    return read_table(tmp_path / "t.csv")


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("hat", [0, 1, np.nan]),
        ("round", [0, 1, 1]),
        ("sex=F", [1, 0, np.nan]),
        ("sex = M", [0, 1, np.nan]),
        ("age>30", [0, 1, np.nan]),
        ("age >= 30", [1, 1, np.nan]),
        ("age<70.5", [1, 0, np.nan]),
        ("age<=70.5", [1, 1, np.nan]),
    ],
)
def test_attributes(table: Table, expression: str, expected: list[float]) -> None:
    np.testing.assert_array_equal(table.attribute(expression), expected)


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("Hat", r"t.csv has no column 'Hat'; it has image, hat, round, sex, age, word"),
        ("Age>3", r"no column 'Age'"),
        ("word", r"column 'word' holds 'x' in row 1; an attribute is 0/1 or -1/1"),
        ("age", r"column 'age' holds '30' in row 1"),
        ("sex=Female", r"no sex is 'Female'; found , F, M"),
    ],
)
def test_what_is_no_attribute(table: Table, expression: str, message: str) -> None:
    with pytest.raises(AttributeTableError, match=message):
        table.attribute(expression)


def test_zero_and_minus_one_do_not_mix() -> None:
    with pytest.raises(AttributeTableError, match=r"column 'hat' holds '-1' in row 3"):
        Table(Path("t.csv"), {"hat": ["0", "1", "-1"]}).attribute("hat")


def test_a_threshold_that_is_no_number(table: Table) -> None:
    with pytest.raises(InvalidOptionError, match="cannot compare 'age' with 'old'"):
        table.attribute("age>old")


def test_repeated_ids_are_named() -> None:
    with pytest.raises(AttributeTableError, match="image 'b' is in row 2 and in row 4; remove one"):
        Table(Path("t.csv"), {"image": ["a", "b", "c", "b"]}).unique("image")


def test_other_formats_say_the_same(tmp_path: Path, table: Table) -> None:
    parquet = pytest.importorskip("pyarrow.parquet", reason="needs pyarrow")
    from pyarrow import table as arrow

    columns = {"image": ["a.png", "b.png", "c.png"], "hat": [False, True, None], "age": [30, 70.5, None]}
    parquet.write_table(arrow(columns), tmp_path / "t.parquet")
    records = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    (tmp_path / "t.json").write_text(json.dumps(records))
    (tmp_path / "t.tsv").write_text(CSV.replace(",", "\t"), encoding="utf-8")
    for suffix in (".parquet", ".json", ".tsv"):
        other = read_table(tmp_path / f"t{suffix}")
        assert other.column("image") == table.column("image")
        for expression in ("hat", "age>40"):
            np.testing.assert_array_equal(other.attribute(expression), table.attribute(expression))


def test_parquet_without_pyarrow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "t.parquet").touch()
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(InvalidOptionError, match="needs pyarrow: pip install pyarrow, or save it as CSV"):
        read_table(tmp_path / "t.parquet")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.csv", b"", "t.csv is empty"),
        ("t.csv", b"a,b\n1,2\n3\n", "row 2 has 1 values for 2 columns"),
        ("t.csv", b"\xff\xfe\x00", "is no table of text"),
        ("t.json", b'{"a": 1}', "holds no list of records"),
        ("t.json", b"[{", "is no JSON file"),
        ("t.parquet", b"PAR1", "is no Parquet file"),
    ],
)
def test_damaged_tables_are_named(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CorruptFileError, match=message):
        read_table(tmp_path / name)


def test_a_missing_or_strange_table(tmp_path: Path) -> None:
    with pytest.raises(DatasetNotFoundError, match=r"no table .*labels.csv"):
        read_table(tmp_path / "labels.csv")
    with pytest.raises(InvalidOptionError, match=r"cannot read .*labels.xlsx as a table; give one of .csv"):
        read_table(tmp_path / "labels.xlsx")


def test_a_table_without_rows(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("image,hat\n")
    assert read_table(tmp_path / "t.csv").attribute("hat").shape == (0,)
