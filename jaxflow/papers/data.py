"""Data: shipped with scikit-learn, from a paper, or from the user's file."""

import difflib
import math
import os
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np

from ..sweeps.paths import local_path
from ._tables import MOST_BYTES, read_table, unpacked


class Data(NamedTuple):
    """One regression with one output.

    Attributes:
        x: Inputs, `(samples, in)`.
        y: Targets, `(samples, 1)`.
        description: What they are and what was done to them, for people.
        test: Further inputs and targets of the same kind, if there are any.
    """

    x: np.ndarray
    y: np.ndarray
    description: str
    test: tuple[np.ndarray, np.ndarray] | None = None


class Samples(NamedTuple):
    """Samples without targets.

    Attributes:
        x: The samples, `(samples, numbers)`.
        description: What they are, for people.
    """

    x: np.ndarray
    description: str


def load_data(data: str | os.PathLike[str], *, target: str | None = None) -> Data:
    """Regression data by name or path.

    Args:
        data: `diabetes`, 442 patients of scikit-learn, or `digits`, its 1797 images of
            8 x 8 pixels, with the digit as target; `cancer`, its 569 tumours, with benign
            as one and malignant as zero; `paper`, the synthetic data of Marion & Chizat
            (2024); or the path of a CSV file with a header. All but the paper's are
            centered and scaled to unit variance, column by column. Commas, semicolons or
            tabs separate columns; with the latter two, numbers may have decimal commas.
        target: For a file, the column to predict; the others are the inputs, but for row
            numbers that another program wrote and columns that do not vary, which
            `description` names.

    Raises:
        ValueError: If there are no such data, or they are not finite numbers in columns
            with different names.
    """
    shipped = {
        "diabetes": _diabetes,
        "digits": _digits,
        "cancer": _cancer,
        "paper": paper_data,
    }
    if isinstance(data, str) and data in shipped:
        if target is not None:
            raise ValueError(
                f"`--target` names a column of a CSV file, but data is {data}."
            )
        return shipped[data]()
    return _regression(_existing(data, "a CSV file", tuple(shipped)), target)


def load_samples(data: str | os.PathLike[str]) -> Samples:
    """Samples by name or path, as they are: neither centered nor scaled.

    Args:
        data: `digits`, the 1797 images of scikit-learn, 8 x 8 numbers from 0 to 1; or the
            path of a file of numbers: `.npy`, `.npz` with one array, or `.csv` without a
            header. Samples are rows; images become rows of numbers.

    Raises:
        ValueError: If there are no such data, or they are not two or more samples of
            finite numbers.
    """
    if data == "digits":
        images, name = digits()[0], "digits (scikit-learn)"
    else:
        path = _existing(data, "an array file", ("digits",))
        images, name = _array(path), path.name
    x = images.reshape(len(images), -1).astype(float)
    size = f"{len(x)} samples of {x.shape[1]} numbers, from {x.min():.3g} to {x.max():.3g}"
    return Samples(x, f"{name}: {size}")


def digits() -> tuple[np.ndarray, np.ndarray]:
    """Images from 0 to 1, as rows of 8 x 8 numbers, and which digits they show."""
    raw = _shipped("digits")
    return raw["data"] / 16, raw["target"]


class Classes(NamedTuple):
    """Patterns of signs in two classes.

    Attributes:
        x: Signs, and a constant one at the end, `(samples, in)`.
        y: Classes, 1 or -1, `(samples,)`.
        description: What they are and what was done to them, for people.
    """

    x: np.ndarray
    y: np.ndarray
    description: str


def load_classes(
    data: str | os.PathLike[str],
    *,
    labels: str | os.PathLike[str] | None = None,
    classes: tuple[str, str] | None = None,
) -> Classes:
    """Two-class data by name or path, made binary: above a sample's median or not.

    Args:
        data: `digits`, the 1797 images of scikit-learn, even digits against odd ones; or
            the path of a file of samples: `.npy`, `.npz`, `.csv`, or IDX (`.gz` or not).
        labels: For a file, that of its labels, of the same formats.
        classes: The labels to tell apart; by default the two that there are.

    Raises:
        ValueError: If there are no such data, they are not finite numbers, there is not one
            label for each sample, or there are not two classes.
    """
    if data == "digits":
        if labels is not None:
            raise ValueError(f"`--labels` is for a file, but data is {data}.")
        (images, marks), name = digits(), "digits (scikit-learn)"
        if classes is None:
            words, marks, classes = "even against odd", marks % 2, ("0", "1")
        else:
            words = f"{classes[0]} against {classes[1]}"
    else:
        path = local_path(data)
        names = None if labels is None else local_path(labels)
        if not path.is_file() or names is None or not names.is_file():
            raise ValueError(
                "`--data` must be 'digits', or the path of a file with `--labels` the path "
                f"of one, but they are '{data}' and {labels and str(labels)!r}."
            )
        images, marks, name = _array(path), _read(names).ravel(), path.name
        kinds = np.unique(marks)
        if classes is None and len(kinds) != 2:
            raise ValueError(
                f"`--classes` must name two labels, for {labels} has {len(kinds)}: "
                f"{', '.join(map(str, kinds[:10]))}."
            )
        classes = classes or (str(kinds[0]), str(kinds[1]))
        words = f"{classes[0]} against {classes[1]}"
    x = images.reshape(len(images), -1).astype(float)
    if marks.shape != (len(x),):
        raise ValueError(
            f"There must be a label for each of {len(x)} samples, but there are "
            f"{marks.size}."
        )
    first, second = (marks == _label(one, marks) for one in classes)
    if not first.any() or not second.any() or (first & second).any():
        raise ValueError(
            f"`--classes` must name two labels that there are, but names {classes}."
        )
    some = first | second
    y = np.where(first, 1.0, -1.0)[some]
    x = np.where(x > np.median(x, axis=1, keepdims=True), 1.0, -1.0)[some]
    x = np.concatenate([x, np.ones((len(x), 1))], axis=1)
    size = f"{len(x)} patterns of {x.shape[1]} signs, one constant, {words}"
    return Classes(x, y, f"{name}: {size}")


def _label(text: str, marks: np.ndarray) -> Any:
    if marks.dtype.kind not in "biuf":
        return text
    try:
        return float(text)
    except ValueError as error:
        raise ValueError(f"`--classes` must be numbers here, but are {text!r}.") from error


def paper_data(problem: str = "linear") -> Data:
    """The data of the experiments of Marion & Chizat (2024), as published.

    Standard normal samples with unit noise; targets divided by the norm of the
    least-squares solution, those of the test set too.

    Args:
        problem: `linear`, 50 samples in 5 dimensions; `noiseless`, the same without noise,
            for nonlinear networks; `underdetermined`, 15 samples in 20 dimensions.
    """
    samples, inputs, noise, number = {
        "linear": (50, 5, 1, 0),
        "noiseless": (50, 5, 0, 0),
        "underdetermined": (15, 20, 1, 20),
    }[problem]
    shapes = [(samples, inputs)] * 2 + [(inputs,), (samples,), (samples,)]
    with jax.threefry_partitionable(False):
        x, x_test, direction, *errors = _draws(_paper_key(number), shapes)
    y, y_test = (
        inputs @ direction + noise * error
        for inputs, error in zip((x, x_test), errors, strict=True)
    )
    size = np.linalg.norm(np.linalg.lstsq(x, y)[0])
    description = f"Marion & Chizat (2024): {samples} samples, {inputs} inputs, |w*| = 1"
    test = x_test, y_test[:, None] / size
    return Data(x, y[:, None] / size, description, test)


def paper_readout() -> np.ndarray:
    """The fixed readout of the residual networks of Marion & Chizat (2024), a unit row."""
    with jax.threefry_partitionable(False):
        row = np.asarray(jr.normal(_paper_key(5), (5,), jnp.float32), float)
    return row / np.linalg.norm(row)


def _paper_key(number: int) -> jax.Array:
    """One of the keys that the paper's script splits off, one after the other.

    JAX 0.5 changed its random numbers: the paper's need the older generator, and float32.
    """
    key, own = jr.split(jr.PRNGKey(0))
    for _ in range(number):
        key, own = jr.split(key)
    return own


def _draws(key: jax.Array, shapes: list[tuple[int, ...]]) -> list[np.ndarray]:
    drawn = []
    for shape in shapes:
        key, own = jr.split(key)
        drawn.append(np.asarray(jr.normal(own, shape, jnp.float32), float))
    return drawn


def _diabetes() -> Data:
    raw = _shipped("diabetes", as_frame=True)
    return _standardize(raw["data"], raw["target"], "diabetes (scikit-learn)")


def _digits() -> Data:
    raw = _shipped("digits", as_frame=True)
    return _standardize(raw["data"], raw["target"], "digits (scikit-learn)")


def _cancer() -> Data:
    raw = _shipped("breast_cancer", as_frame=True)
    return _standardize(raw["data"], raw["target"], "breast cancer (scikit-learn)")


def _shipped(name: str, **options) -> Any:
    """A dataset that comes with scikit-learn."""
    try:
        import sklearn.datasets
    except ImportError as error:
        raise ValueError(
            f"The {name} data come with scikit-learn: `pip install 'jaxflow[run]'`."
        ) from error
    return getattr(sklearn.datasets, f"load_{name}")(**options)


def _existing(data: str | os.PathLike[str], kind: str, shipped: tuple[str, ...]) -> Path:
    """The file that is meant, if there is one."""
    path = local_path(data)
    if path.is_file():
        return path
    what = f"'{data}' is a directory" if path.is_dir() else f"there is no file '{data}'"
    close = difflib.get_close_matches(str(data), shipped, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    raise ValueError(
        f"`--data` must be {', '.join(map(repr, shipped))} or the path of {kind}, but "
        f"{what}.{hint}"
    )


def _regression(path: Path, target: str | None) -> Data:
    table = read_table(path)
    numbers, notes = table.numbers, list(table.notes)
    columns = list(numbers.columns)
    listed = ", ".join(map(repr, columns))
    if target is None:
        raise ValueError(f"`--target` must name a column of {path}. There are {listed}.")
    if target not in columns:
        close = difflib.get_close_matches(target, columns, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise ValueError(
            f"`--target` must name a column of {path}, but is {target!r}.{hint} There are "
            f"{listed}."
        )
    if len(numbers) < 2 or len(columns) < 2:
        raise ValueError(
            f"{path} must hold at least two samples and two columns, but holds "
            f"{len(numbers)} and {len(columns)}."
        )
    values = numbers.to_numpy(float)
    if bad := np.argwhere(~np.isfinite(values)).tolist():
        row, column = bad[0]
        where = f"line {numbers.index[row]}, column {columns[column]!r}"
        raise ValueError(
            f"{path} must hold finite numbers, but {len(bad)} entries are not, first "
            f"in {where}. Drop or fill them."
        )
    inputs = numbers.drop(columns=target)
    return _standardize(inputs, numbers[target], path.name, notes)


def _array(path: Path) -> np.ndarray:
    """An array of two or more samples of finite numbers."""
    images = _read(path)
    if images.dtype.kind not in "biuf":
        raise ValueError(f"{path} must hold real numbers, but holds {images.dtype}.")
    if images.ndim < 2 or len(images) < 2 or not images.size:
        raise ValueError(
            f"{path} must hold at least two samples, in rows, but has shape {images.shape}."
        )
    if bad := np.argwhere(~np.isfinite(images)).tolist():
        raise ValueError(
            f"{path} must hold finite numbers, but {len(bad)} entries are not, the first "
            f"at index {tuple(bad[0])}. Drop or fill them."
        )
    return images


def _read(path: Path) -> np.ndarray:
    """Whatever array a file holds."""
    readers = {".npy": _binary, ".npz": _binary, ".csv": _rows}
    # As the files of MNIST and its kind are named: `train-images-idx3-ubyte.gz`.
    known = path.suffix in readers
    idx = not known and ("idx" in path.name or path.suffix == ".gz")
    if not idx and not known:
        raise ValueError(
            f"{path} must be an array file, so end in {', '.join(readers)}, or be an IDX "
            f"file, with `idx` in its name, but is {path.name!r}. Use `numpy.save`."
        )
    return _idx(path) if idx else readers[path.suffix](path)


def _idx(path: Path) -> np.ndarray:
    """The format of MNIST: two zeros, a type, the number of axes, sizes, and numbers."""
    types = {8: "u1", 9: "i1", 11: ">i2", 12: ">i4", 13: ">f4", 14: ">f8"}
    raw = unpacked(path)
    try:
        zero, kind, axes = int.from_bytes(raw[:2], "big"), raw[2], raw[3]
        if zero or kind not in types:
            raise ValueError("it starts with other bytes")
        shape = np.frombuffer(raw, ">u4", axes, offset=4).tolist()
        numbers = np.frombuffer(raw, types[kind], offset=4 + 4 * axes)
        return numbers.reshape(shape)
    except (ValueError, IndexError) as error:
        raise ValueError(f"{path} must be an IDX file, but {error}.") from error


def _binary(path: Path) -> np.ndarray:
    names = []
    try:
        if path.suffix == ".npy":
            with path.open("rb") as file:
                return _numpy(file, path.stat().st_size)
        with zipfile.ZipFile(path) as archive:
            names = [name.removesuffix(".npy") for name in archive.namelist()]
            if len(names) == 1:
                [member] = archive.infolist()
                with archive.open(member) as file:
                    return _numpy(file, min(member.file_size, MOST_BYTES))
    # Whatever NumPy and unpacking say of files that are not theirs.
    except Exception as error:
        raise ValueError(f"{path} must hold an array of numbers, but {error}.") from error
    raise ValueError(
        f"{path} must hold one array, but holds {len(names)} ({', '.join(names[:20])}). "
        "Save one of them with `numpy.save`."
    )


def _numpy(file, size: int) -> np.ndarray:
    """The array of a file in NumPy's format that has so many bytes."""
    version = np.lib.format.read_magic(file)
    old = version == (1, 0)
    read = (
        np.lib.format.read_array_header_1_0 if old else np.lib.format.read_array_header_2_0
    )
    shape, _, dtype = read(file)
    told = math.prod(shape) * dtype.itemsize
    if not dtype.hasobject and told > size:
        raise ValueError(f"its header tells of {told} bytes, and it holds {size}")
    file.seek(0)
    return np.lib.format.read_array(file, allow_pickle=False)


def _rows(path: Path) -> np.ndarray:
    return read_table(path, header=False).numbers.to_numpy(float)


def _standardize(inputs, target, name, notes=()) -> Data:
    x, y = inputs.to_numpy(float), target.to_numpy(float)[:, None]
    columns = list(inputs.columns)
    # More than what rounding makes of a constant.
    varies, y_varies = (_spread(v) > 8 * np.finfo(float).eps for v in (x, y))
    if not varies.any() or not y_varies.all():
        raise ValueError(f"{name} must hold a target and an input that vary.")
    x, y = _scaled(x[:, varies]), _scaled(y)
    kept = [column for column, one in zip(columns, varies, strict=True) if one]
    before = np.column_stack([inputs[kept].to_numpy(float), target.to_numpy(float)])
    for column, raw, scaled in zip(
        [*kept, target.name], before.T, np.column_stack([x, y]).T, strict=True
    ):
        distinct, left = len(np.unique(raw)), len(np.unique(scaled))
        if left < distinct and left <= max(2, distinct // 2):
            raise ValueError(
                f"{name} must hold numbers that can be told apart once they are scaled, "
                f"but column {column!r} holds {raw[np.abs(raw).argmax()]:.4g} beside much "
                "smaller ones. Drop or fill what stands for no data."
            )
    dropped = [str(c) for c, one in zip(columns, varies, strict=True) if not one]
    notes = [*notes, *([f"without the constant {', '.join(dropped)}"] if dropped else [])]
    size = f"{len(x)} samples, {x.shape[1]} inputs, target {target.name!r}"
    return Data(x, y, "; ".join([f"{name}: {size}, standardized", *notes]))


def _spread(values: np.ndarray) -> np.ndarray:
    """Standard deviations over the largest number of each column."""
    values = _unit(values)
    return values.std(axis=0) / np.maximum(np.abs(values).max(axis=0), 0.5)


def _scaled(values: np.ndarray) -> np.ndarray:
    values = _unit(values)
    return (values - values.mean(axis=0)) / values.std(axis=0)


def _unit(values: np.ndarray) -> np.ndarray:
    """Columns over powers of two, so that the largest is about one: no square overflows."""
    return np.ldexp(values, -np.frexp(np.abs(values).max(axis=0))[1])
