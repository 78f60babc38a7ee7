"""Results on disk: whole or not at all, and never in the place of something else."""

import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
import xarray as xr

import jaxflow as jf


def dataset(value=1.0):
    """Runs as a sweep returns them, with one that diverged."""
    values = value * np.arange(6.0).reshape(2, 3)
    values[1, 2] = np.nan
    return xr.Dataset(
        {
            "loss": (("seed", "record"), values),
            "time": (("seed", "record"), [[0.0, 0.1, 0.2], [0.0, 0.1, np.inf]]),
            "status": ("seed", np.array([0, 4], np.int32), {"flag_values": [0, 4]}),
        },
        coords={"seed": [0, 1], "scale": 0.3},
        attrs={"depth": 3, "note": "Λ ≥ λ", "bound": 1.5, "none": float("nan")},
    )


def tree():
    branches = {"gaussian": dataset(), "residual": dataset(2.0)}
    return xr.DataTree.from_dict(branches | {"/": xr.Dataset(attrs={"width": 5})})


def files(directory):
    """What is in a directory, with its content."""
    paths = sorted(p for p in directory.rglob("*") if p.is_file())
    return {str(p.relative_to(directory)): p.read_bytes() for p in paths}


@pytest.mark.parametrize("result", [dataset(), tree()], ids=["dataset", "tree"])
def test_a_loaded_result_is_the_one_that_was_saved(tmp_path, result):
    loaded = jf.load(jf.save(result, tmp_path / "deep" / "down"))
    xr.testing.assert_identical(loaded.load(), result)


def test_a_loaded_result_has_the_types_of_the_one_that_was_saved(tmp_path):
    loaded, saved = jf.load(jf.save(dataset(), tmp_path / "runs")), dataset()
    assert {n: v.dtype for n, v in loaded.items()} == {n: v.dtype for n, v in saved.items()}


def test_texts_are_saved_whatever_their_length(tmp_path):
    """Of fixed length zarr would warn, which here is an error."""
    runs = dataset().assign_coords(seed=np.array(["one", "several"]))
    runs = runs.assign(note=("record", np.array(["a", "bc", "def"])), kind=np.str_("all"))
    loaded = jf.load(jf.save(xr.DataTree.from_dict({"part": runs}), tmp_path / "runs"))
    xr.testing.assert_equal(loaded["part"].to_dataset().load(), runs)


def test_a_loaded_result_can_be_saved_where_it_came_from(tmp_path):
    path = jf.save(dataset(), tmp_path / "runs")
    jf.save(jf.load(path).assign_attrs(depth=4), path, overwrite=True)
    xr.testing.assert_identical(jf.load(path).load(), dataset().assign_attrs(depth=4))


@pytest.mark.parametrize("path", [".", ".."])
def test_the_current_directory_is_not_replaced(tmp_path, monkeypatch, path):
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    with pytest.raises(ValueError, match="must not hold the current directory"):
        jf.save(dataset(), path)


def test_another_result_is_not_overwritten_unasked(tmp_path):
    jf.save(dataset(), tmp_path / "runs")
    before = files(tmp_path)
    with pytest.raises(ValueError, match="runs must be free, but holds another result"):
        jf.save(dataset(2.0), tmp_path / "runs")
    assert files(tmp_path) == before


def test_another_result_is_overwritten_when_asked(tmp_path):
    jf.save(tree(), tmp_path / "runs")
    jf.save(dataset(2.0), tmp_path / "runs", overwrite=True)
    xr.testing.assert_identical(jf.load(tmp_path / "runs").load(), dataset(2.0))
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]


@pytest.mark.parametrize(
    "name", ["thesis", "thesis/chapter.txt"], ids=["directory", "file"]
)
def test_what_is_no_result_is_never_overwritten(tmp_path, name):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.txt").write_text("years of work")
    with pytest.raises(ValueError, match="not a result"):
        jf.save(dataset(), tmp_path / name, overwrite=True)
    assert files(tmp_path) == {"thesis/chapter.txt": b"years of work"}


def write_half(self, store, **options):
    del self, options
    (store.root / "half").write_text("")
    raise OSError("disk full")


def move_all_but_the_new(source, target):
    if str(source).endswith(".part"):
        raise OSError("disk full")
    source.replace(target)


@pytest.mark.parametrize(
    ("name", "failing"),
    [
        ("xarray.Dataset.to_zarr", write_half),
        ("jaxflow.sweeps.store.os.rename", move_all_but_the_new),
    ],
    ids=["writing", "moving"],
)
def test_a_write_that_fails_leaves_the_old_result(tmp_path, monkeypatch, name, failing):
    path = jf.save(dataset(), tmp_path / "runs")
    before = files(tmp_path)
    monkeypatch.setattr(name, failing)
    with pytest.raises(OSError, match="disk full"):
        jf.save(dataset(2.0), path, overwrite=True)
    assert files(tmp_path) == before


def test_there_is_nothing_to_load_where_nothing_was_saved(tmp_path):
    with pytest.raises(ValueError, match="must be a stored result"):
        jf.load(tmp_path / "runs")


def encoded(name, **encoding):
    """A dataset as it comes from a file that stores numbers in fewer bits."""
    runs = xr.Dataset(
        {
            "loss": ("x", [0.123456789, -1.0, 70000.5, np.nan]),
            "count": ("x", np.array([3, -1, 2**40, 7])),
        },
        coords={"x": [0.25, 1.0, 2.5, 1e9]},
    )
    runs[name].encoding = encoding
    return runs


STALE = {
    "a type": encoded("loss", dtype="float32"),
    "a whole type": encoded("loss", dtype="int16", _FillValue=-1),
    "a scale": encoded("loss", dtype="int32", scale_factor=0.1, add_offset=5.0),
    "a number for none": encoded("count", _FillValue=7),
    "another number for none": encoded("loss", missing_value=-1.0),
    "chunks": encoded("loss", chunks=(3,), preferred_chunks={"x": 3}),
    "codecs": encoded("count", compressors=(), filters=()),
    "the type of an axis": encoded("x", dtype="float16"),
    "units of time": encoded("loss", units="days since 1900-01-01"),
    "coordinates": encoded("loss", coordinates="count"),
}


@pytest.mark.parametrize("runs", STALE.values(), ids=STALE)
@pytest.mark.parametrize("tree", [False, True], ids=["dataset", "tree"])
def test_encodings_of_other_files_change_nothing(tmp_path, runs, tree):
    saved = xr.DataTree.from_dict({"part": runs}) if tree else runs
    loaded = jf.load(jf.save(saved, tmp_path / "runs"))
    loaded = loaded["part"].to_dataset() if tree else loaded
    xr.testing.assert_identical(loaded.load(), runs)
    assert {n: v.dtype for n, v in loaded.variables.items()} == {
        n: v.dtype for n, v in runs.variables.items()
    }
    with xr.open_datatree(tmp_path / "runs", engine="zarr", consolidated=False) as found:
        raw = found["part"] if tree else found
        xr.testing.assert_equal(raw.to_dataset(inherit=False).load(), runs)


def of(values, **attrs):
    return xr.Dataset({"a": ("x", values, attrs)})


TEXTS = np.array(["é", "", "a\nb", "x" * 300, "\0", "b\0"], object)
HELD = {
    "texts": of(TEXTS),
    "texts of one length": of(np.array(["a", "b"])),
    "texts of any length": of(np.array(["a", "bcd"], np.dtypes.StringDType())),
    "two axes of texts": xr.Dataset({"a": (("x", "y"), [["a", "b"], ["c", "d"]])}),
    "times": of(np.array(["2024-01-01", "NaT", "2262-01-01"], "datetime64[ns]")),
    "durations": of(np.array([1, 2, 3], "timedelta64[s]")),
    "half": of(np.array([1, np.nan], np.float16)),
    "complex": of([1j, np.nan]),
    "complex64": of(np.array([1j], np.complex64)),
    "flags": of([True, False]),
    "bytes of numbers": of(np.array([0, 255], np.uint8)),
    "another order": of(np.array([1.5, 2.5], ">f8")),
    "all fill": of(np.zeros(5)),
    "nothing": of(np.zeros(0)),
    "nan": of([np.nan] * 3),
    "infinity and zeros": of([np.inf, -np.inf, -0.0, 5e-324]),
    "whole numbers": of(np.array([2**63 - 1, -(2**63)])),
    "one number": xr.Dataset({"a": 1.5}),
    "no variables": xr.Dataset(attrs={"note": "only this"}),
    "an index of texts": xr.Dataset(coords={"x": ["a", "b"]}),
    "units": of([1.0], units="metres", long_name="a length"),
    "names": xr.Dataset({"c": 1.0, "perte d'été %": 2.0, "C": 3.0, "__x": 4.0}),
}


@pytest.mark.parametrize("runs", HELD.values(), ids=HELD)
def test_whatever_is_stored_is_read_back_equal(tmp_path, runs):
    loaded = jf.load(jf.save(runs, tmp_path / "runs")).load()
    xr.testing.assert_identical(loaded, runs)
    for name, variable in runs.variables.items():
        if variable.dtype.kind in "biufc":
            assert loaded[name].dtype == variable.dtype.newbyteorder("=")
            bits = (np.asarray(v.values, v.dtype) for v in (loaded[name], variable))
            np.testing.assert_array_equal(*(np.signbit(b.real) for b in bits))


REFUSED = {
    "bytes": of(np.array([b"a", b"b"])),
    "bytes of any length": of(np.array([b"abc", b"d"])),
    "kinds together": of(np.array([1, "a"], object)),
    "texts and nan": of(np.array(["a", np.nan], object)),
    "texts and none": of(np.array(["a", None], object)),
    "objects": of(np.array([{}, []], object)),
    "bfloat16": of(jnp.ones(2, jnp.bfloat16)),
    "records": of(np.zeros(2, [("a", "f8")])),
    "a scale as an attribute": of([1.0, 2.0], scale_factor=3.0),
    "times as an attribute": of([1, 2], units="days since 2000-01-01"),
    "a number for none as an attribute": of([1.0, 2.0], missing_value=2.0),
    "an attribute of ours": xr.Dataset({"a": 1.0}, attrs={"jaxflow": "mine"}),
    "an attribute that is no JSON": xr.Dataset({"a": 1.0}, attrs={"f": print}),
    "no name": xr.Dataset({"": 1.0}),
    "a dot": xr.Dataset({".": 1.0}),
    "a path": xr.Dataset({"a/b": 1.0}),
    "the name of a file": xr.Dataset({"zarr.json": 1.0}),
    "several indices": xr.Dataset(
        coords=xr.Coordinates.from_pandas_multiindex(
            pd.MultiIndex.from_product([[1, 2], ["a", "b"]]), "x"
        )
    ),
}


@pytest.mark.parametrize("runs", REFUSED.values(), ids=REFUSED)
def test_what_would_not_be_read_back_equal_is_refused(tmp_path, runs):
    with pytest.raises(ValueError, match=r"`save` (cannot store|stores)"):
        jf.save(runs, tmp_path / "runs")
    assert not list(tmp_path.iterdir())
