"""Traced functions: the same identity everywhere, another one for another computation."""

import os
import subprocess
import sys
from pathlib import Path

import diffrax as dfx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import jaxflow as jf
from jaxflow.sweeps.jaxprs import fingerprint, peak_bytes

X = np.linspace(-1.0, 1.0, 12).reshape(6, 2)


def descend(x=X, step_size=0.1, observe=jf.loss_value, steps=10):
    def run(key):
        problem = jf.Regression.from_data(jnp.asarray(x), jnp.asarray(x[:, :1]))
        start = jf.init.gaussian((2, 2, 1), scale=0.3, key=key)
        options = {"step_size": step_size, "observe": {"seen": observe}}
        end = jf.gradient_descent(problem, start, steps, **options)
        return end.observed, end.status

    return fingerprint(jax.make_jaxpr(run)(jr.key(0)))


def flow():
    def run(key):
        problem = jf.Regression.from_data(jnp.asarray(X), jnp.asarray(X[:, :1]))
        start = jf.init.gaussian((2, 2, 1), scale=0.3, key=key)
        options = {"throw": False, "adjoint": dfx.ForwardMode()}
        return jf.gradient_flow(problem, start, np.array([0.0, 1.0]), **options).observed

    return fingerprint(jax.make_jaxpr(run)(jr.key(0)))


def callback(number=1.0):
    like = jax.ShapeDtypeStruct((), np.float64)
    call = lambda x: jax.pure_callback(lambda x: x, like, x * number)
    return fingerprint(jax.make_jaxpr(call)(1.0))


@pytest.fixture(scope="module")
def plain():
    return descend()


def test_a_fingerprint_is_the_same_in_every_process(plain):
    code = (
        "import jax; jax.config.update('jax_enable_x64', True)\n"
        "import test_jaxprs as t; print(t.descend(), t.flow(), t.callback())"
    )
    paths = f"{Path(__file__).parent}{os.pathsep}{Path(jf.__file__).parents[1]}"
    environment = os.environ | {"PYTHONHASHSEED": "7", "PYTHONPATH": paths}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    # There without the strictness of the tests, and without their checks of types.
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        assert done.stdout.split() == [plain, flow(), callback()]


@pytest.mark.parametrize(
    "other",
    [
        {"x": np.where(np.arange(12).reshape(6, 2) == 7, X + 1e-15, X)},
        {"step_size": 0.1 + 1e-15},
        {"observe": lambda loss, network: 2 * jf.loss_value(loss, network)},
        {"observe": jf.observables.excess_loss},
        {"steps": 11},
    ],
    ids=["data", "step size", "observable", "another", "steps"],
)
def test_another_computation_has_another_fingerprint(plain, other):
    assert descend(**other) != plain


def test_a_function_of_another_name_has_the_same_fingerprint(plain):
    def same(loss, network):
        return jf.loss_value(loss, network)

    assert descend(observe=same) == plain


def test_numbers_that_go_to_a_callback_count():
    assert callback(1.0) != callback(2.0)


def test_how_operations_are_connected_counts():
    one = fingerprint(jax.make_jaxpr(lambda x, y: x - y)(1.0, 2.0))
    two = fingerprint(jax.make_jaxpr(lambda x, y: y - x)(1.0, 2.0))
    assert one != two


def test_memory_is_that_of_the_values_that_live_together():
    array = jax.ShapeDtypeStruct((1000,), np.float64)

    def chain(x):
        for _ in range(10):
            x = jnp.sin(x)
        return x

    # An operation needs its input and its output; stacked outputs are all there.
    assert peak_bytes(jax.make_jaxpr(chain)(array)) == 2 * 8000
    steps = lambda x: jax.lax.scan(lambda x, _: (jnp.sin(x), x), x, length=50)[1]
    taken = peak_bytes(jax.make_jaxpr(steps)(array))
    assert 51 * 8000 <= taken <= 56 * 8000


def test_the_data_are_not_counted_for_each_member():
    data = jnp.ones((10_000,))
    each = peak_bytes(jax.make_jaxpr(lambda x: jnp.sum(data) + x)(1.0))
    assert each < 100
