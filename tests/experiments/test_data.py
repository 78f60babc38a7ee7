"""Regression data by name or from a file, and files that hold none."""

import jax
import numpy as np
import pytest

from jaxflow.experiments.data import load_data


@pytest.fixture
def table(tmp_path):
    """Write a CSV file, and load it."""

    def load(text, target="y"):
        path = tmp_path / "table.csv"
        path.write_text(text)
        return load_data(str(path), target=target)

    return load


def test_diabetes_are_ten_standardised_inputs_of_442_patients():
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


def test_a_file_is_standardised_column_by_column(table):
    data, s = table("a,y,b\n1,10,-3\n2,30,0\n3,20,3\n"), 1.5**0.5
    np.testing.assert_allclose(data.x, [[-s, -s], [0, 0], [s, s]], atol=1e-15)
    np.testing.assert_allclose(data.y, [[-s], [s], [0]], atol=1e-15)
    assert data.description == "table.csv: 3 samples, 2 inputs, target 'y', standardised"


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
    "all rows too long": ("a,b,y\n1,2,3,4\n2,3,5,9\n3,5,1,0\n", "table.csv"),
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
    [("prce", "'prce'.* mean 'price'.*'rooms'"), (None, "None.* are 'area', 'rooms'")],
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
