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


def test_diabetes_are_ten_inputs_of_442_patients():
    data = load_data("diabetes")
    assert (data.x.shape, data.y.shape) == ((442, 10), (442, 1))


def test_diabetes_are_standardised():
    data = load_data("diabetes")
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
    data = table("a,y,b\n1,10,-3\n2,30,0\n3,20,3\n")
    third = 1.5**0.5
    np.testing.assert_allclose(
        data.x, [[-third, -third], [0, 0], [third, third]], atol=1e-15
    )
    np.testing.assert_allclose(data.y, [[-third], [third], [0]], atol=1e-15)


def test_the_description_tells_what_was_read(table):
    data = table("a,y,b\n1,10,-3\n2,30,0\n3,20,3\n")
    assert data.description == "table.csv: 3 samples, 2 inputs, target 'y', standardised"


@pytest.mark.parametrize("constant", ["7", "0", "0.1"])
def test_a_constant_column_is_dropped_and_named(table, constant):
    data = table(f"a,same,y\n1,{constant},1\n2,{constant},2\n3,{constant},4\n")
    assert data.x.shape == (3, 1)
    assert "without the constant same" in data.description


def test_a_byte_order_mark_is_no_part_of_a_name(table):
    assert table("\ufeffy,a\n1,2\n3,5\n").x.shape == (2, 1)


@pytest.mark.parametrize(
    ("text", "target", "fact"),
    [
        ("a,b,y\n1,u,3\n2,v,5\n", "y", "numbers only, .*'b' .*such as 'u'"),
        ("area,rooms,price\n1,2,3\n2,3,5\n", "prce", "'prce'.* mean 'price'.*'rooms'"),
        ("a,y\n1,2\n3,5\n", None, "is None.* There are 'a', 'y'"),
        ("a,b,y\n1,2,3\n4,,5\n6,7,8\n", "y", "1 entries .* line 3, column 'b'"),
        ("a,b,y\n1,2,3\n4,5,6\n6,7,inf\n", "y", "1 entries .* line 4, column 'y'"),
        ("a,y\n\n1,2\n\n3,\n", "y", "line 5, column 'y'"),
        ("a,y\n1,2\n", "y", "two samples and two columns, but holds 1 and 2"),
        ("y\n1\n2\n", "y", "two samples and two columns, but holds 2 and 1"),
        ("a,y\n", "y", "two samples and two columns, but holds 0 and 2"),
        ("", "y", "CSV file with a header"),
        ("a,y\n1,2\n3,4,5\n", "y", "CSV file with a header.* line 3"),
        ("a,b,y\n1,2,3,4\n2,3,5,9\n3,5,1,0\n", "y", "table.csv"),
        ("a,y\n1,7\n2,7\n3,7\n", "y", "target and an input that vary"),
        ("a,y\n1,0.1\n2,0.1\n3,0.1\n", "y", "target and an input that vary"),
        ("a,y\n5,1\n5,2\n", "y", "target and an input that vary"),
    ],
    ids=(
        "text,misspelt target,no target,nan,infinity,nan below blank lines,one sample,"
        "one column,header alone,empty,one row too long,every row too long,constant target,"
        "constant target that rounds,constant inputs"
    ).split(","),
)
def test_a_file_that_holds_no_regression_is_refused(table, text, target, fact):
    with pytest.raises(ValueError, match=fact):
        table(text, target)


@pytest.mark.parametrize(
    ("data", "target", "fact"),
    [
        ("diabtes", None, "no file 'diabtes'.* mean 'diabetes'"),
        ("nothing.csv", None, "no file 'nothing.csv'.$"),
        ("paper", "y", "names a column of a CSV file, but data is paper"),
        ("diabetes", "y", "names a column of a CSV file, but data is diabetes"),
    ],
    ids=["misspelt", "no file", "target of the paper's", "target of diabetes"],
)
def test_data_that_do_not_exist_are_refused(data, target, fact):
    with pytest.raises(ValueError, match=fact):
        load_data(data, target=target)
