"""Names and kinds of what a sweep returns: the same in memory and stored, or refused."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
import xarray as xr

import jaxflow as jf
from jaxflow.sweeps import chunks, sinks

THREE = jnp.arange(3.0)


def sweep(run, path=None, **options):
    options = {"axes": {"s": [1.0, 2.0]}} | options
    return jf.sweep(run, key=jr.key(0), seeds=2, path=path, **options)


REFUSED = {
    "a number named as a dimension": (
        lambda key, s: {"a": s * THREE, "a_0": s},
        {},
        "'a_0' a dimension of 'a', but there is an observable",
    ),
    "a vector named as a dimension": (
        lambda key, s: {"a": s * THREE, "a_0": s * jnp.ones(4)},
        {},
        "'a_0' a dimension of 'a', but there is an observable",
    ),
    "an axis named as a dimension": (
        lambda key, a_0: {"a": a_0 * THREE},
        {"axes": {"a_0": [1.0, 2.0]}},
        "'a_0' a dimension of 'a', but there is an axis",
    ),
    "of the same length": (
        lambda key, a_0: {"a": a_0 * THREE},
        {"axes": {"a_0": [1.0, 2.0, 3.0]}},
        "'a_0' a dimension of 'a', but there is an axis",
    ),
    "a static axis named as a dimension": (
        lambda key, s, a_1: {"a": s * jnp.ones((2, 2))},
        {"static": {"a_1": ["one", "two"]}},
        "'a_1' a dimension of 'a', but there is an axis",
    ),
    "a leaf named as a dimension": (
        lambda key, s: {"a": {"b": s * THREE}, "a.b_0": s},
        {},
        "'a.b_0' a dimension of 'a.b', but there is an observable",
    ),
    "a leaf named as another": (
        lambda key, s: {"a": {"b": s}, "a.b": -s},
        {},
        r"of several of them \['a.b'\]",
    ),
    "keys that print alike": (
        lambda key, s: {"a": [s], "a.0": s},
        {},
        r"of several of them \['a.0'\]",
    ),
    "an axis named as a leaf": (
        lambda key, **axes: {"a": {"b": axes["a.b"]}},
        {"axes": {"a.b": [1.0, 2.0]}},
        "'a.b' is an axis and an observable",
    ),
    "an axis named as the key": (
        lambda key, **axes: {"a": axes["s"]},
        {"axes": {"key": [1.0, 2.0]}},
        "passes a key as 'key'",
    ),
    "a key": (lambda key, s: {"k": key}, {}, "'k' is key<fry>"),
    "a text": (lambda key, s: {"name": "relu"}, {}, "'name' is 'relu'"),
    "a number of few bits": (lambda key, s: {"b": jnp.bfloat16(s)}, {}, "'b' is bfloat16"),
    "four bits": (lambda key, s: {"b": jnp.ones(2, jnp.int4)}, {}, "'b' is int4"),
    "none": (lambda key, s: {"a": s, "name": None}, {}, r"none for \['name'\]"),
    "an empty tree": (lambda key, s: {"a": s, "b": {}}, {}, r"none for \['b'\]"),
    "an array": (lambda key, s: s, {}, "a mapping from names"),
}


@pytest.mark.parametrize("stored", [False, True], ids=["in memory", "stored"])
@pytest.mark.parametrize(("run", "options", "fact"), REFUSED.values(), ids=REFUSED)
def test_names_and_kinds_that_would_be_lost_are_refused_before_anything_runs(
    tmp_path, monkeypatch, run, options, fact, stored
):
    computed = lambda *_: pytest.fail("it ran")
    monkeypatch.setattr(chunks.Program, "compile", computed)
    path = tmp_path / "runs" if stored else None
    with pytest.raises(ValueError, match=f"`sweep.*{fact}"):
        sweep(run, path, **options)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "name", ["", ".", "..", "a/b", "/a", "zarr.json", "chunks", "a\0b", "x" * 256]
)
def test_names_that_no_store_can_hold_are_refused_before_anything_runs(
    tmp_path, monkeypatch, name
):
    monkeypatch.setattr(chunks.Program, "compile", lambda *_: pytest.fail("it ran"))
    with pytest.raises(ValueError, match=r"`sweep\(path=...\)` stores variables"):
        sweep(lambda key, s: {name: s}, tmp_path / "runs")
    run = lambda key, **axes: {"a": axes[name]}
    with pytest.raises(ValueError, match=r"`sweep\(path=...\)` stores variables"):
        sweep(run, tmp_path / "runs", axes={name: [1.0, 2.0]})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("seeds", "chunk"), [(2.0, None), (True, None), ("2", None), (2, 1.5), (2, "all")]
)
def test_numbers_of_seeds_and_of_members_are_whole(seeds, chunk):
    run = lambda key: pytest.fail("it ran")
    with pytest.raises(TypeError):
        jf.sweep(run, key=jr.key(0), seeds=seeds, chunk=chunk)


def everything(key, s, kind):
    """Results of all kinds, with odd names."""
    draw = s * jr.normal(key)
    return {
        "Loss": draw,
        "loss": -draw,
        "c": 2 * draw,
        "chunk": draw * THREE,
        "perte d'été %": draw,
        "__x": draw,
        "complex": jax.lax.complex(draw, -draw),
        "flag": draw > 0,
        "byte": jnp.uint8(s),
        "short": draw.astype(jnp.float16),
        "single": draw.astype(jnp.float32),
        "whole": jnp.int32(s),
        "nothing": jnp.zeros((0, 2)),
        "nan": draw * jnp.nan,
        "tree": {"a": [draw, (draw, None)]},
        "of two": {"x": draw} if kind == "" else {"y": draw},
    }


def test_a_stored_sweep_is_the_one_in_memory(tmp_path):
    options = {"static": {"kind": ["", "é\n日本"]}, "axes": {"s": [-1.0, 2.0]}, "chunk": 2}
    memory = sweep(everything, **options)
    stored = sweep(everything, tmp_path / "runs", **options)
    for runs in (
        stored,
        jf.load(tmp_path / "runs"),
        jf.load(jf.save(memory, tmp_path / "m")),
    ):
        xr.testing.assert_equal(runs.load(), memory)
        assert {n: v.dtype for n, v in runs.items()} == {
            n: v.dtype for n, v in memory.items()
        }
        assert {n: v.attrs for n, v in runs.items()} == {
            n: v.attrs for n, v in memory.items()
        }
    assert memory.Loss.equals(-memory.loss)
    assert "of two.y" in memory


def test_names_that_differ_by_case_are_refused_where_disks_do_not(tmp_path, monkeypatch):
    monkeypatch.setattr(chunks.Program, "compile", lambda *_: pytest.fail("it ran"))
    exists = sinks.Path.exists
    folds = lambda path: exists(path.with_name(path.name.lower()))
    monkeypatch.setattr(sinks.Path, "exists", folds)
    with pytest.raises(ValueError, match=r"more than case .* \['Loss', 'loss'\]"):
        sweep(lambda key, s: {"Loss": s, "loss": -s}, tmp_path / "runs")


def test_axes_keep_their_kinds(tmp_path):
    axes = {
        "whole": np.array([2**24 + 1, 2**24 + 2]),
        "flag": [True, False],
        "single": np.array([0.1, 0.2], np.float32),
        "traced": jnp.logspace(-2, 0, 3),
    }
    run = lambda key, **axes: {"a": jax.tree.map(jnp.float64, axes)}
    memory = sweep(run, axes=axes)
    stored = sweep(run, tmp_path / "runs", axes=axes).load()
    xr.testing.assert_identical(stored.drop_attrs(), memory.drop_attrs())
    for name, values in axes.items():
        assert stored[name].dtype == np.asarray(values).dtype
        np.testing.assert_array_equal(
            memory["a." + name].sel(seed=0), memory["a." + name][1]
        )
