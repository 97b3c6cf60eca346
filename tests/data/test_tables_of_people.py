"""Tables as spreadsheets, pandas and scripts write them, read through `ImageFolder`."""

import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from patronus_pl.data import ImageFolder
from patronus_pl.data.table_files import read_table
from patronus_pl.errors import AttributeTableError, CorruptFileError

from .trees import picture

COUNT = 24


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for i in range(COUNT):
        (tmp_path / "data" / "a").mkdir(parents=True, exist_ok=True)
        picture(i, 8, 8).save(tmp_path / "data" / "a" / f"{i:05d}.png")
    return tmp_path / "data"


def attributes(root: Path, table: str | bytes, name: str = "t.csv", **options: Any) -> dict[str, list[float]]:
    """Write a table beside the images, and return what it says of each."""
    (root / name).write_bytes(table.encode() if isinstance(table, str) else table)
    data = ImageFolder(str(root), image_size=8, attributes_file=name, **options)
    listings = data.listings().values()
    assert data.attribute_names == tuple(options.get("attributes", ("round",)))
    return {i: row.tolist() for listing in listings for i, row in zip(listing.ids, listing.attributes, strict=True)}


def rows(name: str = "a/{:05d}.png", header: str = "file,round", row: str = "{name},{round}", end: str = "\n") -> str:
    lines = [row.format(name=name.format(i), round=i % 2, i=i) for i in range(COUNT)]
    return end.join([header, *lines, ""])


EXPECTED = {f"a/{i:05d}.png": [float(i % 2)] for i in range(COUNT)}


@pytest.mark.parametrize(
    "table",
    [
        rows(header="file;round", row="{name};{round}"),
        rows(header="file\tround", row="{name}\t{round}"),
        rows(header="file|round", row="{name}|{round}"),
        "sep=;\n" + rows(header="file;round", row="{name};{round}"),
        "\ufeff" + rows(end="\r\n"),
        "\ufeff" + rows(header='"file";"round"', row='"{name}";"{round}"'),
        rows().encode("utf-16"),
        b"\xfe\xff" + rows().encode("utf-16-be"),
        rows(header="file\tround", row="{name}\t{round}").encode("utf-16-le"),
        rows(header=",file,round", row="{i},{name},{round}"),
        rows(header="Unnamed: 0,file,round", row="{i},{name},{round}"),
        rows(header=",round", row="{name},{round}"),
        rows(header="round,file", row="{round},{name}"),
        rows(header="file,round,", row="{name},{round},"),
        rows(header="file,round", row="{name},{round},,"),
        rows().replace("\n", "\n,\n", 3).replace("\n", "\n\n", 1),
        rows(row=" {name} , {round} "),
        rows(header="file,round", row="{name},{round}.0"),
        rows().replace(",1", ",WAHR").replace(",0", ",FALSCH"),
    ],
    ids=[
        "semicolon", "tab", "bar", "sep-line", "bom-crlf", "quotes", "utf16", "utf16-be", "utf16-no-bom",
        "index-column", "unnamed-column", "nameless-names", "label-first", "trailing-separator", "trailing-values",
        "empty-rows", "blanks", "floats", "german-booleans",
    ],
)  # fmt: skip
def test_spreadsheets(root: Path, table: str | bytes) -> None:
    assert attributes(root, table) == EXPECTED


@pytest.mark.parametrize(
    "name",
    ["a/{:05d}", "{:05d}.png", "{:05d}", "{}", "{}.0", "./a/{:05d}.png", "a\\{:05d}.png", ".\\a\\{:05d}.png",
     "/home/her/data/a/{:05d}.png", "C:\\Users\\his\\data\\a\\{:05d}.png", "data/a/{:05d}.png", "images/{:05d}.png",
     "/mnt/other/{:05d}.png", "a/{:05d}.jpg", "{:05d}.JPEG"],
)  # fmt: skip
def test_names_from_another_root_or_without_zeros_or_suffix(root: Path, name: str) -> None:
    assert attributes(root, rows(name)) == EXPECTED


def test_an_index_of_shuffled_rows_is_not_taken_for_names(root: Path) -> None:
    lines = rows(header=",file,round", row="{i},{name},{round}").splitlines()
    shuffled = [line.partition(",")[2] for line in lines[:0:-1]]
    table = "\n".join([lines[0], *(f"{i},{line}" for i, line in enumerate(shuffled))])
    assert attributes(root, table) == EXPECTED
    without_zeros = [line.replace("a/", "").replace(".png", "").lstrip("0") for line in shuffled]
    table = "\n".join(
        [lines[0], *(f"{i},{line if line[0] != ',' else '0' + line}" for i, line in enumerate(without_zeros))]
    )
    assert attributes(root, table) == EXPECTED


def test_numbers_beside_names(root: Path) -> None:
    table = rows().replace("a/00003.png", "3")
    assert attributes(root, table) == EXPECTED


@pytest.mark.filterwarnings("ignore:ImageFolder .*skipped 3 images without a row")
def test_a_column_of_labels_is_not_taken_for_names(root: Path) -> None:
    for i in range(3):
        picture(i, 8, 8).save(root / f"{i}.png")
    assert attributes(root, rows(header="round,file", row="{round},{name}")).items() >= EXPECTED.items()


@pytest.mark.filterwarnings("ignore:ImageFolder .*skipped")
def test_decimal_commas(root: Path) -> None:
    table = rows(header="file;age", row="{name};{i},5")
    found = attributes(root, table, attributes=["age>3,5"])
    assert found == {name: [float(i > 3)] for i, name in enumerate(EXPECTED)}
    with pytest.raises(AttributeTableError, match="column 'age' holds '1,500' in row 1"):
        attributes(root, rows(header="file,age", row='{name},"1,500"'), attributes=["age>3"])


def test_both_unicode_forms(root: Path) -> None:
    for i in range(4):
        picture(i, 8, 8).save(root / unicodedata.normalize("NFD", f"café{i}.png"))
    table = "file,round\n" + "".join(f"café{i}.png,1\n" for i in range(4)) + rows().partition("\n")[2]
    found = attributes(root, unicodedata.normalize("NFC", table))
    assert found.items() >= EXPECTED.items()
    assert len(found) == COUNT + 4


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ("a/00003.png,1", "file 'a/00003.png' is in row 4 and in row 25; remove one"),
        ("a\\00003.png,1", r"file 'a/00003.png' is in row 4 and in row 25 \(as 'a\\\\00003.png'\); remove one"),
        ("a/00003,0", r"file 'a/00003.png' is in row 4 and in row 25 \(as 'a/00003'\); remove one"),
        ("3,0", r"file 'a/00003.png' is in row 4 and in row 25 \(as '3'\); remove one"),
        ("/data/a/00003.png,0", r"is in row 4 and in row 25 \(as '/data/a/00003.png'\); remove one"),
        (",1", "row 25 has no 'file'; fill it in or remove the row"),
    ],
)
def test_a_thing_said_twice_names_both_rows(root: Path, extra: str, message: str) -> None:
    with pytest.raises(AttributeTableError, match=message):
        attributes(root, rows() + extra + "\n")


def test_row_numbers_count_empty_rows(root: Path) -> None:
    table = rows().replace("file,round\n", "file,round\n,\n\n") + "a/00003.png,1\n"
    with pytest.raises(AttributeTableError, match=r"is in row 6 and in row 27"):
        attributes(root, table)


def test_two_columns_of_one_name(root: Path) -> None:
    with pytest.raises(AttributeTableError, match="columns 2 and 3 are both called 'round'; rename one"):
        attributes(root, rows(header="file,round,round", row="{name},{round},1"))


def test_a_table_that_names_no_image_says_so(root: Path) -> None:
    with pytest.raises(
        AttributeTableError,
        match=r"no value of any column, such as 'file' \(as 'x0.png'\) names an image \(as 'a/00000.png'\)",
    ):
        attributes(root, rows("x{}.png"))


def test_other_encodings_are_named(root: Path) -> None:
    with pytest.raises(CorruptFileError, match=r"is no table of text in UTF-8 .*save it as 'CSV UTF-8'"):
        attributes(root, rows(header="file;größe", row="{name};{round}").encode("cp1252"))


def test_values_of_any_length(root: Path) -> None:
    report = "x" * 200_000
    table = rows(header="file,round,report", row="{name},{round}," + report)
    found = attributes(root, table, attributes=["round"])
    assert found == EXPECTED


def test_records_per_line_and_repeated_fields(root: Path) -> None:
    lines = "\n".join(f'{{"file_name": "a/{i:05d}.png", "round": {i % 2}}}' for i in range(COUNT))
    assert attributes(root, lines, "t.jsonl") == EXPECTED
    (root / "twice.json").write_text('[{"file": "a", "file": "b"}]')
    with pytest.raises(CorruptFileError, match="a record has 'file' twice"):
        read_table(root / "twice.json")


def test_parquet_with_the_index_of_pandas(root: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet", reason="needs pyarrow")
    from pyarrow import table

    numbers = [float(i) for i in range(COUNT)]
    columns = {"round": [i % 2 == 1 for i in range(COUNT)], "number": numbers, "__index_level_0__": list(range(COUNT))}
    parquet.write_table(table(columns), root / "t.parquet")
    data = ImageFolder(str(root), image_size=8, attributes_file="t.parquet")
    for listing in data.listings().values():
        assert [row.tolist() for row in listing.attributes] == [EXPECTED[name] for name in listing.ids]
    assert data.attribute_names == ("round",)


def test_north_america_is_no_missing_value(root: Path) -> None:
    table = rows(header="file;continent;round", row="{name};NA;{round}")
    assert np.all(list(attributes(root, table, attributes=["continent=NA"]).values()) == np.ones((COUNT, 1)))
