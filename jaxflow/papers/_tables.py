"""Tables of numbers as people have them: CSV files of several kinds, packed or not."""

import bz2
import csv
import gzip
import io
import itertools as it
import lzma
import re
import warnings
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    import pandas as pd

# What a file may unpack to: it is to fit into memory, several times.
MOST_BYTES = 2**31
_PACKED = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
_SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs"}
# Names that pandas gives to columns without one, and to row numbers.
_UNNAMED = re.compile(r"(Unnamed: \d+(\.\d+)*)?")
_NUMBERED = ("index", "level_0")


class Table(NamedTuple):
    """Numbers in named columns.

    Attributes:
        numbers: A table of floats, whose index is the line in the file, from one.
        notes: What was done that one would want to know, in a few words each.
    """

    numbers: "pd.DataFrame"
    notes: tuple[str, ...]


def read_table(path: Path, *, header: bool = True) -> Table:
    """The numbers of a CSV file, without row numbers and columns that are empty.

    Separators are commas, semicolons or tabs; with the latter two, there may be decimal
    commas. Lines that are blank are left out.

    Raises:
        ValueError: If it is something else, or columns have no names or the same.
    """
    text, notes = _text(path)
    lines = text.split("\n", 50)[:50]
    separator = _separator(lines)
    rows = filter(None, csv.reader(lines[: None if header else 1], delimiter=separator))
    width = max(map(len, it.islice(rows, 2)), default=0)
    first = next(csv.reader([text.split("\n", 1)[0]], delimiter=separator), [])
    names = [name.strip() for name in first]
    if header:
        _check_header(path, names)
    table = _cells(path, text, width, separator, ".", header)
    if separator != "," and not all(map(_is_numeric, table.dtypes)):
        other = _cells(path, text, width, separator, ",", header)
        if all(map(_is_numeric, other.dtypes)):
            table, notes = other, [*notes, "with decimal commas"]
    if header and table.shape[1] == len(names) + 1:
        # A separator at the end of each line; or R's names of rows, in front.
        labels = table.iloc[:, 0]
        if table.iloc[:, -1].isna().all():
            table = table.iloc[:, :-1]
        elif _counts(labels) or not _is_numeric(labels.dtype):
            table, notes = table.iloc[:, 1:], [*notes, "without the names of rows"]
    if header and table.shape[1] != len(names):
        raise ValueError(
            f"{path} must be a CSV file with a header, but its first line has {len(names)} "
            f"columns, separated by {_SEPARATORS[separator]}, and others have "
            f"{table.shape[1]}."
        )
    if header:
        table.columns = names
        table, left = _without_row_numbers(path, table)
        notes += left
    numbers = _numbers(path, table, header)
    if header:
        _check_copies(path, numbers)
    return Table(numbers, tuple(notes))


def unpacked(path: Path) -> bytes:
    """What a file holds, unpacked if its name says that it is packed.

    Raises:
        ValueError: If it is damaged, or more than 2 GiB.
    """
    try:
        if path.suffix == ".zip":
            with zipfile.ZipFile(path) as archive:
                [member] = archive.namelist()
                with archive.open(member) as file:
                    data = file.read(MOST_BYTES + 1)
        else:
            with _PACKED.get(path.suffix, open)(path, "rb") as file:
                data = file.read(MOST_BYTES + 1)
    # Whatever the readers of archives say of files that are not theirs.
    except Exception as error:
        raise ValueError(f"{path} cannot be read: {error}.") from error
    if len(data) > MOST_BYTES:
        raise ValueError(
            f"{path} must hold at most {MOST_BYTES >> 30} GiB, but holds more."
        )
    return data


def _text(path: Path) -> tuple[str, list[str]]:
    data = unpacked(path)
    wide = data.startswith((b"\xff\xfe", b"\xfe\xff"))
    notes = []
    try:
        text = data.decode("utf-16" if wide else "utf-8-sig")
    except UnicodeDecodeError:
        # Every byte is a letter there: numbers are what they are, names may differ.
        text, notes = data.decode("latin-1"), ["read as latin-1"]
    if "\0" in text:
        raise ValueError(f"{path} must be a CSV file, but holds bytes that are no text.")
    return text.replace("\r\n", "\n").replace("\r", "\n"), notes


def _separator(lines: list[str]) -> str:
    """What makes the most columns, and as many in the header as in the rows."""
    return max(_SEPARATORS, key=lambda separator: _fit(lines, separator))


def _fit(lines: list[str], separator: str) -> tuple[bool, int]:
    try:
        sizes = [len(row) for row in csv.reader(lines, delimiter=separator) if row]
    except csv.Error:
        return False, 0
    # Rows may have one more: a name, or nothing after a separator at the end.
    even = len({*sizes[1:]}) <= 1 and all(0 <= n - sizes[0] <= 1 for n in sizes[1:2])
    return even and max(sizes, default=0) > 1, max(sizes, default=0)


def _check_header(path, names):
    if not any(names):
        raise ValueError(
            f"{path} must be a CSV file with a header, but its first line is empty."
        )
    if twice := sorted({name for name in names if name and names.count(name) > 1}):
        raise ValueError(
            f"{path} must have columns of different names, but has several of "
            f"{', '.join(map(repr, twice))}. Drop or rename them."
        )
    some = [name for name in names if not _UNNAMED.fullmatch(name)]
    # pandas names columns that have no names by their numbers, from zero.
    if all(map(_is_number, names)) and some != [str(k) for k in range(len(some))]:
        raise ValueError(
            f"{path} must be a CSV file with a header, but its first line holds numbers: "
            f"{', '.join(names[:5])}{', ...' if len(names) > 5 else ''}. Write names there."
        )


def _is_number(text: str) -> bool:
    try:
        float(text or 0)
    except ValueError:
        return False
    return True


def _cells(path, text, width, separator, decimal, header) -> "pd.DataFrame":
    """The cells below the header, as pandas reads them; rows are numbered as lines are."""
    import pandas as pd

    options = {"sep": separator, "decimal": decimal, "header": None, "index_col": False}
    options |= {"names": range(width), "skip_blank_lines": False, "low_memory": False}
    options |= {"skipinitialspace": True}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)
            table = pd.read_csv(io.StringIO(text), skiprows=int(header), **options)
    except pd.errors.EmptyDataError:
        # A header alone, if there is one.
        if not text.strip():
            kind = "with a header" if header else "of numbers"
            raise ValueError(f"{path} must be a CSV file {kind}, but is empty.") from None
        return pd.DataFrame(columns=range(width))
    except (ValueError, pd.errors.ParserWarning) as error:
        kind = "with a header" if header else "of numbers"
        raise ValueError(f"{path} must be a CSV file {kind}, but {error}.") from error
    table.index += 1 + int(header)
    return table.dropna(how="all")


def _is_numeric(dtype) -> bool:
    import pandas as pd

    return pd.api.types.is_numeric_dtype(dtype)


def _without_row_numbers(path, table) -> "tuple[pd.DataFrame, list[str]]":
    """A table without columns that number its rows, or have neither name nor content."""
    left, notes = [], []
    for k, name in enumerate(table.columns):
        column = table.iloc[:, k]
        unnamed = _UNNAMED.fullmatch(name)
        if not unnamed and not (name in _NUMBERED and _counts(column)):
            continue
        if not unnamed or (len(column) and _numbers_rows(column)):
            notes.append(f"without the row numbers in column {k + 1}")
        elif not column.isna().all():
            raise ValueError(
                f"{path} must have a name for every column, but column {k + 1} has none. "
                "Name or drop it."
            )
        left.append(k)
    keep = [k for k in range(table.shape[1]) if k not in left]
    return table.iloc[:, keep], notes


def _counts(column) -> bool:
    """Whether a column counts rows, from zero or one."""
    values = column.to_numpy()
    return any(np.array_equal(values, np.arange(k, k + len(values))) for k in (0, 1))


def _numbers_rows(column) -> bool:
    """Whether a column holds numbers of rows, of which there may have been more."""
    import pandas as pd

    values = column.to_numpy()
    whole = pd.api.types.is_integer_dtype(column)
    return whole and values.min() >= 0 and len(np.unique(values)) == len(values)


def _numbers(path, table, header) -> "pd.DataFrame":
    """All cells as floats, if they are numbers that floats can hold."""
    import pandas as pd

    found, text = {}, []
    for k, name in enumerate(table.columns):
        column = table.iloc[:, k]
        values: Any = column
        if not _is_numeric(column.dtype):
            values = pd.to_numeric(column, errors="coerce")
        wrong = values.isna() & column.notna()
        if wrong.any():
            line = wrong.idxmax()
            text.append((name, line, column[line]))
        floats = values.astype(float)
        if column.dtype.kind in "iu" and (floats.abs() > 2**53).any():
            raise ValueError(
                f"{path} must hold numbers that doubles can hold, but column {name!r} "
                f"holds integers above 2^53, such as {column[floats.abs().idxmax()]}. Drop "
                "or encode it."
            )
        found[name] = floats
    if text and len(table.columns) == 1:
        raise ValueError(
            f"{path} must have columns that commas, semicolons or tabs separate, but has "
            f"one, {str(text[0][0])!r}, that holds {text[0][2]!r}."
        )
    if text and header:
        raise ValueError(
            f"{path} must hold numbers only, but there is text in "
            f"{', '.join(repr(name) for name, *_ in text)} (such as {text[0][2]!r}). "
            "Drop or encode it."
        )
    if text:
        _, line, word = min(text, key=lambda each: each[1])
        raise ValueError(
            f"{path} must hold numbers only, without a header, but line {line} holds "
            f"{word!r}."
        )
    return pd.DataFrame(found, index=table.index)


def _check_copies(path, numbers):
    """Refuse a column twice, which pandas numbers when it reads it (`y` and `y.1`)."""
    for name in numbers.columns:
        first = re.sub(r"\.\d+$", "", name)
        if first != name and first in numbers and numbers[first].equals(numbers[name]):
            raise ValueError(
                f"{path} must have columns that differ, but {name!r} is a copy of "
                f"{first!r}. Drop it."
            )
