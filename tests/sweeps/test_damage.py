"""Stores that lost something, or were changed: computed again, or refused by name."""

import json
import shutil

import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
import xarray as xr
import zarr

import jaxflow as jf
from jaxflow.report import write
from jaxflow.stored import read
from jaxflow.sweeps import sinks


def run(key, kind, a):
    """Numbers that are those of no result at one point, and at another throughout."""
    draw = jr.normal(key, (3,)) + jnp.where(a == 3, jnp.nan, a)
    return {"x": draw, "n": jnp.where(a == 2, jnp.iinfo(int).min, 5), "flag": a > 9}


def sweep(path=None, **options):
    static, axes = {"kind": ["one", "other"]}, {"a": np.arange(5.0)}
    options = {"key": jr.key(0), "seeds": 3, "static": static, "axes": axes} | options
    return jf.sweep(run, chunk=3, path=path, **options)


@pytest.fixture(scope="module")
def whole():
    return sweep()


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    path = tmp_path_factory.mktemp("swept") / "runs"
    sweep(path)
    return path


@pytest.fixture(scope="module")
def saved(tmp_path_factory, whole):
    both = xr.DataTree.from_dict({"one": whole, "other": whole})
    return jf.save(both, tmp_path_factory.mktemp("saved") / "runs")


@pytest.fixture
def copy(tmp_path):
    def copy(store):
        return shutil.copytree(store, tmp_path / "runs")

    return copy


@pytest.fixture
def count(monkeypatch):
    """The chunks that were computed."""
    written, write = [], sinks.Sink.write

    def counted(self, grid, chunk, values, seconds):
        written.append(chunk)
        write(self, grid, chunk, values, seconds)

    monkeypatch.setattr(sinks.Sink, "write", counted)
    return written


def flip(file, where=0.5):
    data = bytearray(file.read_bytes())
    data[int(where * (len(data) - 1))] ^= 4
    file.write_bytes(bytes(data))


def cut(file):
    file.write_bytes(file.read_bytes()[:-3])


def empty(file):
    file.write_bytes(b"")


def swap(file):
    """Another chunk of the same variable, which is whole, but for its first byte."""
    file.write_bytes(b"\1\1\1\1")


SPOIL = {
    "missing": lambda file: file.unlink(),
    "flipped first": lambda file: flip(file, 0),
    "flipped": flip,
    "flipped last": lambda file: flip(file, 1),
    "cut": cut,
    "empty": empty,
    "other": swap,
}
SPOILS = pytest.mark.parametrize("spoil", SPOIL.values(), ids=SPOIL)
# Of the second point of `kind`, at the fourth `a`, where `x` is nan throughout.
CHUNK = 8
FILES = ["x/c/0/1/3/0", "n/c/0/1/3", "flag/c/0/1/3", "chunks/seconds/c/8"]


@SPOILS
@pytest.mark.parametrize("file", [*FILES, "chunks/done/c/8"])
def test_a_chunk_that_was_damaged_is_computed_again(swept, whole, copy, count, spoil, file):
    path, said = copy(swept), []
    spoil(path / file)
    gone = file.startswith("chunks/done") and not (path / file).exists()
    xr.testing.assert_equal(sweep(path, progress=said.append).load(), whole)
    assert count == [CHUNK]
    assert gone or said[0].startswith("1 chunks were done but are damaged")
    xr.testing.assert_equal(read(path).result, whole)


@SPOILS
@pytest.mark.parametrize("file", [*FILES, "a/c/0", "kind/c/0"])
def test_a_damaged_sweep_is_not_read(swept, copy, spoil, file, tmp_path):
    path = copy(swept)
    spoil(path / file)
    with pytest.raises(ValueError, match=f"runs cannot be read: {file} is"):
        write(read(path), tmp_path / "report.html", False)
    assert not (tmp_path / "report.html").exists()
    if not file.startswith("chunks"):
        with pytest.raises(ValueError, match=f"runs cannot be read: {file} is"):
            jf.load(path).load()


@SPOILS
@pytest.mark.parametrize("file", ["one/x/c/0/0/0/0", "other/flag/c/0/0/0", "one/a/c/0"])
def test_a_damaged_result_is_not_read(saved, copy, spoil, file):
    path = copy(saved)
    spoil(path / file)
    for reader in (read, lambda path: jf.load(path).load()):
        with pytest.raises(ValueError, match=f"runs cannot be read: {file} is"):
            reader(path)


METADATA = {
    "a variable": ("x/zarr.json", "'x' is missing"),
    "an axis": ("a/zarr.json", "'a' is missing"),
    "what is done": ("chunks/done/zarr.json", "'chunks/done' is missing"),
}


@pytest.mark.parametrize(("file", "fact"), METADATA.values(), ids=METADATA)
@pytest.mark.parametrize("use", [sweep, jf.load, read], ids=["sweep", "load", "read"])
def test_a_store_that_lost_a_variable_is_refused(swept, copy, use, file, fact):
    path = copy(swept)
    shutil.rmtree((path / file).parent)
    with pytest.raises(ValueError, match=f"runs cannot be read: {fact}"):
        use(path)


def edit(file, change):
    root = json.loads(file.read_text())
    change(root["attributes"])
    file.write_text(json.dumps(root))


ODD = {
    "no mark": lambda attrs: attrs.pop("jaxflow"),
    "a broken mark": lambda attrs: attrs.update(jaxflow="{"),
    "another mark": lambda attrs: attrs.update(jaxflow="[1]"),
    "a mark that is a list": lambda attrs: attrs.update(jaxflow=[1]),
    "no specification": lambda attrs: attrs.pop("specification"),
    "a broken specification": lambda attrs: attrs.update(specification="{"),
    "a list of experiments": lambda attrs: attrs.update(experiment=["sweep"]),
    "broken arguments": lambda attrs: attrs.update(arguments="{"),
}
USES = pytest.mark.parametrize("use", [sweep, jf.load, read], ids=["sweep", "load", "read"])


@USES
@pytest.mark.parametrize("change", ODD.values(), ids=ODD)
def test_a_store_whose_attributes_changed_is_refused(swept, copy, use, change):
    path = copy(swept)
    edit(path / "zarr.json", change)
    with pytest.raises(ValueError, match=r"runs cannot be read: .*zarr\.json"):
        use(path)


@USES
@pytest.mark.parametrize("file", ["zarr.json", "x/zarr.json", "chunks/zarr.json"])
@pytest.mark.parametrize("spoil", [flip, cut, empty], ids=["flip", "cut", "empty"])
def test_a_store_whose_metadata_changed_is_refused(swept, copy, use, file, spoil):
    path = copy(swept)
    spoil(path / file)
    with pytest.raises(ValueError, match=r"runs cannot be read: .*zarr\.json"):
        use(path)


def test_a_chunk_that_is_not_done_may_be_missing(swept, whole, copy):
    path = copy(swept)
    for file in [*FILES[1:], "chunks/done/c/8"]:
        (path / file).unlink()
    found = jf.load(path).load()
    assert (found.n.sel(kind="other", a=3) == np.iinfo(int).min).all()
    xr.testing.assert_equal(found.x, whole.x)
    assert read(path).progress == "unfinished, 9 of 10 chunks done, 90%"


def test_other_programs_read_a_store(swept, saved, whole):
    """Also chunks that hold nothing but what stands for no number."""
    with xr.open_zarr(swept, consolidated=False) as found:
        xr.testing.assert_equal(found.load(), whole)
    with xr.open_datatree(saved, engine="zarr", consolidated=False) as found:
        xr.testing.assert_equal(found["one"].to_dataset().load(), whole)
    assert zarr.open_group(swept, mode="r")["x"].nchunks_initialized == 10


def test_a_result_with_odd_attributes_is_told(tmp_path):
    odd = {"experiment": ["sweep"], "arguments": "{", "versions": "[1]", "float64": 2}
    runs = xr.Dataset({"loss": ("x", [1.0, 2.0])}, attrs=odd)
    found = read(jf.save(runs, tmp_path / "runs"))
    origin = found.origin()
    assert origin["arguments"] == "{"
    assert origin["experiment"] == "['sweep']"
    write(found, tmp_path / "report.html", False)
