"""Tables and arrays as people have them: the same numbers whatever the form, or refused."""

import bz2
import gzip
import io
import lzma
import struct
import zipfile

import numpy as np
import pytest

from jaxflow.papers import _tables as tables
from jaxflow.papers.data import load_classes, load_data, load_samples

PLAIN = "a,b,y\n1.5,2,3\n2.5,1,5\n.5,4,1\n3.5,0,7\n"
COLUMNS = PLAIN.split("\n")[1:-1]


@pytest.fixture
def table(tmp_path):
    """Write a CSV file, and load it."""

    def load(text, target="y"):
        (tmp_path / "table.csv").write_bytes(text.encode())
        return load_data(tmp_path / "table.csv", target=target)

    return load


def labeled(header, *labels):
    """The plain table with something in front of each row."""
    rows = [f"{label},{row}" for label, row in zip(labels, COLUMNS, strict=True)]
    return "\n".join([header, *rows]) + "\n"


NUMBERS, NAMES = "without the row numbers in column 1", "without the names of rows"
KINDS = {
    "semicolons": (PLAIN.replace(",", ";"), ""),
    "tabs": (PLAIN.replace(",", "\t"), ""),
    "decimal commas": (
        PLAIN.replace(",", ";").replace(".", ","),
        "with decimal commas",
    ),
    "decimal commas and tabs": (
        PLAIN.replace(",", "\t").replace(".", ","),
        "with decimal commas",
    ),
    "quotes": (PLAIN.replace("a,b,y", '"a","b","y"'), ""),
    "quoted cells": (PLAIN.replace("1.5", '"1.5"'), ""),
    "spaces": (PLAIN.replace(",", " , "), ""),
    "line ends of Windows": (PLAIN.replace("\n", "\r\n"), ""),
    "line ends of old": (PLAIN.replace("\n", "\r"), ""),
    "no line end": (PLAIN.rstrip(), ""),
    "blank lines": (PLAIN.replace("\n", "\n\n"), ""),
    "a byte order mark": ("\ufeff" + PLAIN, ""),
    "commas at line ends": (PLAIN[:6] + PLAIN[6:].replace("\n", ",\n"), ""),
    "an empty column": (PLAIN.replace("\n", ",\n"), ""),
    "row numbers": (labeled(",a,b,y", 0, 1, 2, 3), NUMBERS),
    "row numbers from one": (labeled(",a,b,y", 1, 2, 3, 4), NUMBERS),
    "some row numbers": (labeled(",a,b,y", 9, 2, 7, 0), NUMBERS),
    "row numbers, named": (labeled("Unnamed: 0,a,b,y", 0, 1, 2, 3), NUMBERS),
    "row numbers, twice": (
        labeled("Unnamed: 0.1,Unnamed: 0,a,b,y", "0,0", "1,1", "2,2", "3,3"),
        f"{NUMBERS}; {NUMBERS[:-1]}2",
    ),
    "an index that was reset": (labeled("index,a,b,y", 0, 1, 2, 3), NUMBERS),
    "R's row numbers": (labeled('"a","b","y"', *(f'"{k}"' for k in range(1, 5))), NAMES),
    "R's row names": (labeled('"a","b","y"', "Fiat", "Opel", "Seat", "VW"), NAMES),
}


@pytest.mark.parametrize(("text", "note"), KINDS.values(), ids=KINDS)
def test_tables_of_many_kinds_hold_the_same_numbers(table, text, note):
    data, plain = table(text), table(PLAIN)
    np.testing.assert_array_equal(data.x, plain.x)
    np.testing.assert_array_equal(data.y, plain.y)
    assert data.description == "; ".join(filter(None, [plain.description, note]))


def test_a_name_may_hold_the_other_separator(table):
    rows = PLAIN.replace(",", ";").replace(".", ",")
    np.testing.assert_array_equal(table(rows.replace("a", "a, in m")).x, table(PLAIN).x)


def test_a_column_that_counts_is_an_input_if_it_has_a_name(table):
    assert table(labeled("week,a,b,y", 0, 1, 2, 3)).x.shape == (4, 3)
    assert table(labeled("index,a,b,y", 3, 1, 2, 9)).x.shape == (4, 3)


@pytest.mark.parametrize(
    ("encoding", "note"), [("utf-8", ""), ("utf-16", ""), ("latin-1", "read as latin-1")]
)
def test_names_are_read_in_many_encodings(tmp_path, encoding, note):
    (tmp_path / "t.csv").write_bytes(PLAIN.replace("y", "Größe").encode(encoding))
    data = load_data(tmp_path / "t.csv", target="Größe")
    assert data.x.shape == (4, 2)
    assert data.description.endswith(note or "standardized")


@pytest.mark.parametrize(("pack", "end"), [(gzip, "gz"), (bz2, "bz2"), (lzma, "xz")])
def test_packed_tables_are_read_and_damaged_ones_refused(tmp_path, monkeypatch, pack, end):
    path = tmp_path / f"t.csv.{end}"
    packed = pack.compress(1000 * PLAIN.encode())
    path.write_bytes(pack.compress(PLAIN.encode()))
    assert load_data(path, target="y").x.shape == (4, 2)
    for damaged in (packed[: len(packed) // 2], packed[:9] + b"?" * 9, b"hello", b""):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"t\.csv\.\w+ (cannot be read|must be)"):
            load_data(path, target="y")
    path.write_bytes(packed)
    monkeypatch.setattr(tables, "MOST_BYTES", 1000)
    with pytest.raises(ValueError, match=r"must hold at most .* but holds more"):
        load_data(path, target="y")


@pytest.mark.parametrize("exponent", [-300, -30, 30, 200, 307])
def test_tables_of_any_size_are_scaled(table, exponent):
    rows = ((1, 1, 3), (5, 2, -5), (2, 4, 1), (-5, 3, 2))
    cells = lambda unit: "\n".join(",".join(f"{v}{unit}" for v in row) for row in rows)
    data, plain = table("a,b,y\n" + cells(f"e{exponent}")), table("a,b,y\n" + cells(""))
    np.testing.assert_allclose(data.x, plain.x, rtol=1e-14)
    np.testing.assert_allclose(data.y, plain.y, rtol=1e-14)


def test_a_small_spread_around_a_large_number_is_no_constant(table):
    seconds = "1700000000.001,1\n1700000000.002,5\n1700000000.003,2\n"
    data = table("a,y\n" + seconds)
    np.testing.assert_allclose(data.x[:, 0], [-(1.5**0.5), 0, 1.5**0.5], atol=1e-3)


SILENT = {
    "a name twice": ("a,a,y\n1,2,3\n2,1,5\n4,4,1\n", "several of 'a'"),
    "the target twice": ("y,a,y\n1,3,1\n2,1,2\n4,2,4\n", "several of 'y'"),
    "twice but for spaces": ("a, a,y\n1,2,3\n2,1,5\n4,4,1\n", "several of 'a'"),
    "twice, as pandas reads": ("y,a,y.1\n1,3,1\n2,1,2\n4,2,4\n", "'y.1' .* 'y'"),
    "largest double": ("a,b,y\n1,1e308,1\n2,5,2\n4,2,4\n3,5,3\n", "'b' holds 1e.308"),
    "lowest double": ("a,b,y\n1,-1.797e308,1\n2,5,2\n4,2,4\n", "'b' holds -1.797e"),
    "lowest float": ("a,b,y\n1,-3.4e38,1\n2,5,2\n4,2,4\n3,8,9\n", "'b' holds -3.4e"),
    "in the target": ("a,y\n1,-1.797e308\n2,2\n4,4\n3,9\n", "'y' holds -1.797e"),
    "integers above 2^53": (f"a,y\n{2**53 + 1},2\n{2**53 + 5},1\n7,2\n", "above 2.53"),
    "no header": ("1,2,3\n2,1,5\n4,4,1\n", "first line holds numbers: 1, 2, 3"),
    "a column without name": ("a,,y\n1,2.5,3\n2,1.5,5\n4,4.5,1\n", "column 2 has none"),
    "another separator": ("a|b|y\n1|2|3\n2|3|4\n", "semicolons or tabs .* one, 'a.b.y'"),
    "several decimal signs": ("a;b;y\n1,5;2.5;3\n2,5;3.5;4\n", "text in 'a'"),
    "comments": ("# 2024\na,b,y\n1,2,3\n2,1,5\n", "has 1 column.* others have 3"),
    "bytes": ("a,y\n1,\0\n", "bytes that are no text"),
}


@pytest.mark.parametrize(("text", "fact"), SILENT.values(), ids=SILENT)
def test_tables_that_would_be_read_as_something_else_are_refused(table, text, fact):
    with pytest.raises(ValueError, match=f"table.csv.*{fact}"):
        table(text)


def test_all_columns_are_listed(table):
    names = [f"column_{k}" for k in range(60)]
    rows = ["\n" + ",".join(str(j * k % 7) for k in range(60)) for j in (1, 2, 3)]
    for target in (None, "colunm_59"):
        with pytest.raises(ValueError, match=r"`--target` must .*'column_0'.*'column_59'"):
            table(",".join(names) + "".join(rows), target)


def claim(shape, kind="<f8"):
    """A file of NumPy's format that has a header and no numbers."""
    file = io.BytesIO()
    header = {"descr": kind, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)
    return file.getvalue()


def member(data):
    """An archive of one file."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.npy", data)
    return file.getvalue()


ARCHIVE = member(claim((2, 3)) + np.random.default_rng(0).bytes(48))
HUGE = (10**6, 10**6)
BROKEN = {
    "7 TiB in a header": ("x.npy", claim(HUGE)),
    "7 TiB in an archive": ("x.npz", member(claim(HUGE))),
    "a size below zero": ("x.npy", claim((-1, 4)) + bytes(32)),
    "no numbers": ("x.npy", claim((3, 4))),
    "half a header": ("x.npy", claim((3, 4))[:20]),
    "another version": ("x.npy", b"\x93NUMPY\x09\x00" + claim((3, 4))[8:]),
    "records": ("x.npy", claim((2, 2), [("a", "<f8")]) + bytes(32)),
    "half an archive": ("x.npz", ARCHIVE[: len(ARCHIVE) // 2]),
    "flipped bytes": ("x.npz", ARCHIVE[:90] + b"!!!!" + ARCHIVE[94:]),
    "an archive of text": ("x.npz", member("hello")),
    "an empty archive": ("x.npz", b"PK\x05\x06" + bytes(18)),
    "7 TiB in IDX": ("x-idx2", struct.pack(">HBB2I", 0, 14, 2, *HUGE)),
    "a size below zero in IDX": ("x-idx2", struct.pack(">HBB2i", 0, 8, 2, -1, 2) + b"1234"),
    "half a file in IDX": ("x-idx2.gz", gzip.compress(bytes(10**5))[:50]),
    "not packed": ("x-idx2.gz", b"hello"),
}


@pytest.mark.parametrize(("name", "data"), BROKEN.values(), ids=BROKEN)
def test_damaged_files_are_refused_in_one_line(tmp_path, name, data):
    path, labels = tmp_path / name, tmp_path / "labels.npy"
    path.write_bytes(data)
    np.save(labels, [0, 1])
    for load in (load_samples, lambda path: load_classes(path, labels=labels)):
        with pytest.raises(ValueError, match=f"{name} (must|cannot)") as error:
            load(path)
        assert "\n" not in str(error.value)


def test_a_directory_holds_no_data(tmp_path):
    for load in (load_data, load_samples):
        with pytest.raises(ValueError, match="is a directory"):
            load(tmp_path)
