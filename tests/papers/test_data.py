"""Data by name or from a file, and files that hold none."""

import gzip
import struct

import jax
import numpy as np
import pytest

from jaxflow.papers.data import load_classes, load_data, load_samples


@pytest.fixture
def table(tmp_path):
    """Write a CSV file, and load it."""

    def load(text, target="y"):
        path = tmp_path / "table.csv"
        path.write_text(text)
        return load_data(str(path), target=target)

    return load


def test_diabetes_are_ten_standardized_inputs_of_442_patients():
    data = load_data("diabetes")
    assert (data.x.shape, data.y.shape) == ((442, 10), (442, 1))
    for columns in (data.x, data.y):
        np.testing.assert_allclose(columns.mean(axis=0), 0, atol=1e-13)
        np.testing.assert_allclose(columns.std(axis=0), 1, rtol=1e-13)


@pytest.mark.parametrize("partitionable", [True, False])
def test_the_paper_s_data_are_those_that_it_published(reference, partitionable):
    published = reference["reference_datasets"]["jax0.4.27_threefry_partitionable_False"]
    with jax.threefry_partitionable(partitionable):  # Whatever the caller's generator is.
        data = load_data("paper")
    # They were drawn in single precision.
    np.testing.assert_allclose(data.x, published["linear"]["X"], atol=1e-6)
    np.testing.assert_allclose(data.y[:, 0], published["linear"]["y"], atol=1e-5)


def test_a_file_is_standardized_column_by_column(table):
    data, s = table("a,y,b\n1,10,-3\n2,30,0\n3,20,3\n"), 1.5**0.5
    np.testing.assert_allclose(data.x, [[-s, -s], [0, 0], [s, s]], atol=1e-15)
    np.testing.assert_allclose(data.y, [[-s], [s], [0]], atol=1e-15)
    assert data.description == "table.csv: 3 samples, 2 inputs, target 'y', standardized"


@pytest.mark.parametrize("constant", ["7", "0", "0.1"])
def test_a_constant_column_is_dropped_and_named(table, constant):
    data = table(f"a,same,y\n1,{constant},1\n2,{constant},2\n3,{constant},4\n")
    assert data.x.shape == (3, 1)
    assert "without the constant same" in data.description


FILES = {
    "text": ("a,b,y\n1,u,3\n2,v,5\n", "numbers only, .*'b' .*such as 'u'"),
    "nan": ("a,b,y\n1,2,3\n4,,5\n6,7,8\n", "1 entries .* line 3, column 'b'"),
    "infinity": ("a,b,y\n1,2,3\n4,5,6\n6,7,inf\n", "1 entries .* line 4, column 'y'"),
    "nan below blank lines": ("a,y\n\n1,2\n\n3,\n", "line 5, column 'y'"),
    "one sample": ("a,y\n1,2\n", "two samples and two columns, but holds 1 and 2"),
    "one column": ("y\n1\n2\n", "two samples and two columns, but holds 2 and 1"),
    "header alone": ("a,y\n", "two samples and two columns, but holds 0 and 2"),
    "empty": ("", "CSV file with a header"),
    "one row too long": ("a,y\n1,2\n3,4,5\n", "CSV file with a header"),
    "all rows too long": (
        "a,b,y\n7,2,3,4\n2,3,5,9\n3,5,1,0\n",
        "3 columns, .* others have 4",
    ),
    "constant target": ("a,y\n1,7\n2,7\n", "target and an input that vary"),
    "target that rounds": ("a,y\n1,.1\n2,.1\n3,.1\n", "target and an input that vary"),
    "constant inputs": ("a,y\n5,1\n5,2\n", "target and an input that vary"),
}


@pytest.mark.parametrize(("text", "fact"), FILES.values(), ids=FILES)
def test_a_file_that_holds_no_regression_is_refused(table, text, fact):
    with pytest.raises(ValueError, match=fact):
        table(text)


@pytest.mark.parametrize(
    ("target", "fact"),
    [
        ("prce", "'prce'.* mean 'price'.*'rooms'"),
        (None, "column of .* There are 'area', 'rooms', 'price'"),
    ],
)
def test_a_target_that_does_not_exist_is_refused(table, target, fact):
    with pytest.raises(ValueError, match=fact):
        table("area,rooms,price\n1,2,3\n2,3,5\n", target)


@pytest.mark.parametrize(
    ("data", "target", "fact"),
    [
        ("diabtes", None, r"no file 'diabtes'.* mean 'diabetes'"),
        ("nothing.csv", None, r"no file 'nothing\.csv'\.$"),
        ("paper", "y", r"names a column of a CSV file, but data is paper"),
    ],
)
def test_data_that_do_not_exist_are_refused(data, target, fact):
    with pytest.raises(ValueError, match=fact):
        load_data(data, target=target)


IMAGES = np.arange(12.0).reshape(2, 2, 3)


def test_digits_are_images_from_zero_to_one():
    digits = load_samples("digits")
    assert digits.x.shape == (1797, 64)
    assert (digits.x.min(), digits.x.max()) == (0, 1)
    assert digits.description == (
        "digits (scikit-learn): 1797 samples of 64 numbers, from 0 to 1"
    )


@pytest.mark.parametrize("name", ["images.npy", "images.npz", "images.csv"])
def test_samples_are_what_the_file_holds(tmp_path, name):
    path = tmp_path / name
    if name.endswith("npy"):
        np.save(path, IMAGES.astype("uint8"))
    elif name.endswith("npz"):
        np.savez(path, IMAGES)
    else:
        path.write_text("0,1,2,3,4,5\n\n6,7,8,9,10,11\n")
    samples = load_samples(str(path))
    np.testing.assert_array_equal(samples.x, IMAGES.reshape(2, 6))
    assert samples.x.dtype == float
    assert samples.description == f"{name}: 2 samples of 6 numbers, from 0 to 11"


ARRAYS = {
    "one sample": (IMAGES[:1], r"two samples, in rows, but has shape \(1, 2, 3\)"),
    "one axis": (IMAGES[0, 0], r"in rows, but has shape \(3,\)"),
    "a number": (np.float64(1), r"in rows, but has shape \(\)"),
    "nothing in a sample": (np.zeros((3, 0)), r"in rows, but has shape \(3, 0\)"),
    "infinity": (np.array([[0, 1], [np.inf, 2]]), r"1 entries .* index \(1, 0\)"),
    "nan": (np.array([[0, np.nan], [np.nan, 2]]), r"2 entries .* index \(0, 1\)"),
    "complex": (IMAGES + 1j, "real numbers, but holds complex128"),
    "text": (np.array([["a"], ["b"]]), "real numbers, but holds <U1"),
    "objects": (np.array([[{}], [{}]]), "an array of numbers, but .*allow_pickle"),
}


@pytest.mark.parametrize(("array", "fact"), ARRAYS.values(), ids=ARRAYS)
def test_arrays_that_are_no_samples_are_refused(tmp_path, array, fact):
    np.save(tmp_path / "array.npy", array)
    with pytest.raises(ValueError, match=fact):
        load_samples(str(tmp_path / "array.npy"))


TEXTS = {
    "several arrays": ("two.npz", None, r"one array, but holds 2 \(a, b\)"),
    "not numpy's": ("image.npy", "hello", "an array of numbers, but"),
    "not zipped": ("image.npz", "hello", "an array of numbers, but"),
    "another format": ("image.png", "hello", "is 'image.png'"),
    "a header": ("table.csv", "a,b\n1,2\n3,4\n", "without a header, but line 1 holds 'a'"),
    "text below": ("table.csv", "1,2\n\n3,x\n", "but line 3 holds 'x'"),
    "gaps": ("table.csv", "1,2\n3,\n", r"1 entries .* index \(1, 1\)"),
    "uneven rows": ("table.csv", "1,2\n3,4,5\n", "CSV file of numbers, but"),
    "nothing": ("table.csv", "", "CSV file of numbers, but"),
}


@pytest.mark.parametrize(("name", "text", "fact"), TEXTS.values(), ids=TEXTS)
def test_files_that_hold_no_samples_are_refused(tmp_path, name, text, fact):
    if text is None:
        np.savez(tmp_path / name, a=IMAGES, b=IMAGES)
    else:
        (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=fact):
        load_samples(str(tmp_path / name))


@pytest.mark.parametrize(
    ("data", "fact"),
    [("digts", "no file 'digts'.* mean 'digits'"), ("no.npy", r"no file 'no\.npy'\.$")],
)
def test_samples_that_do_not_exist_are_refused(data, fact):
    with pytest.raises(ValueError, match=fact):
        load_samples(data)


def idx(path, array, kind, *, compress=False):
    """An IDX file, written by hand."""
    header = struct.pack(">HBB", 0, kind, array.ndim)
    header += struct.pack(f">{array.ndim}i", *array.shape)
    raw = header + array.tobytes()
    path.write_bytes(gzip.compress(raw) if compress else raw)
    return str(path)


@pytest.fixture
def images():
    rng = np.random.default_rng(0)
    return rng.integers(0, 255, (30, 4, 5)).astype("u1"), rng.integers(0, 3, 30).astype(
        "u1"
    )


@pytest.mark.parametrize("kind", ["idx", "idx.gz", "npy", "npy by its suffix"])
def test_two_classes_come_from_image_files(tmp_path, images, kind):
    x, marks = images
    if kind.startswith("npy"):
        # An index is no IDX file.
        names = ("x", "y") if kind == "npy" else ("train_idx", "labels-idx1")
        paths = [str(tmp_path / f"{name}.npy") for name in names]
        for path, array in zip(paths, images, strict=True):
            np.save(path, array)
    else:
        zipped = kind.endswith("gz")
        end = "-ubyte" + (".gz" if zipped else "")
        paths = [
            idx(tmp_path / f"{name}-idx{a.ndim}{end}", a, 8, compress=zipped)
            for name, a in (("images", x), ("labels", marks))
        ]
    found = load_classes(paths[0], labels=paths[1], classes=("2", "0"))
    some = marks != 1
    flat = x.reshape(30, -1).astype(float)[some]
    signs = np.where(flat > np.median(flat, axis=1, keepdims=True), 1.0, -1.0)
    np.testing.assert_array_equal(found.x[:, :-1], signs)
    assert np.all(found.x[:, -1] == 1)
    np.testing.assert_array_equal(found.y, np.where(marks[some] == 2, 1.0, -1.0))
    assert "2 against 0" in found.description


def test_digits_are_even_or_odd():
    found = load_classes("digits")
    assert found.x.shape == (1797, 65)
    assert 0.45 < np.mean(found.y == 1) < 0.55


def test_two_classes_that_are_not_there_are_refused(tmp_path, images):
    x, y = (str(tmp_path / f"{name}.npy") for name in ("x", "y"))
    for path, array in zip((x, y), images, strict=True):
        np.save(path, array)
    for arguments, fact in (
        ({"data": x}, "must be 'digits', or the path"),
        ({"data": x, "labels": y}, "must name two labels, for .* has 3: 0, 1, 2"),
        ({"data": x, "labels": y, "classes": ("0", "7")}, "two labels that there are"),
        ({"data": x, "labels": y, "classes": ("0", "a")}, "must be numbers here"),
        ({"data": x, "labels": x, "classes": ("0", "1")}, "label for each of 30 samples"),
    ):
        with pytest.raises(ValueError, match=fact):
            load_classes(**arguments)
    broken = tmp_path / "broken-idx3-ubyte"
    broken.write_bytes(b"\x01\x02\x03")
    with pytest.raises(ValueError, match="must be an IDX file"):
        load_classes(str(broken), labels=y)
