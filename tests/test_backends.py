"""What an accelerator runs: the routes that are not a CPU's, and products not rounded."""

import collections

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from jax.extend.core import ClosedJaxpr, Jaxpr

import jaxflow as jf
from jaxflow import _batching
from jaxflow._fast import descent_lanes as lanes
from jaxflow._linalg import decompositions
from jaxflow.dynamics import flow
from jaxflow.sweeps import programs

ASKING = decompositions, _batching, flow, lanes, programs


@pytest.fixture
def answers(monkeypatch):
    """Calls a function as on a CPU, and as elsewhere, on this CPU."""

    def both(function):
        found = []
        for answer in (True, False):
            for module in ASKING:
                monkeypatch.setattr(module, "on_cpu", lambda answer=answer: answer)
            jax.clear_caches()
            found.append(function())
        jax.clear_caches()
        return found

    return both


def starts(count, widths=(5, 5, 5, 1), scale=0.4):
    start = lambda key: jf.init.gaussian(widths, scale=scale, key=key)
    return jax.vmap(start)(jr.split(jr.key(1), count))


def same(found, rtol):
    cpu, other = found
    for a, b in zip(jax.tree.leaves(cpu), jax.tree.leaves(other), strict=True):
        scale = np.max(np.abs(np.asarray(a, float)), initial=0)
        np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol * scale)


def test_batches_of_flows(answers, problem):
    watch = {"sharpness": jf.sharpness, "alignment": jf.alignment}

    def run():
        one = lambda network: jf.gradient_flow(
            problem, network, (0.0, 2.0, 20.0), observe=watch, throw=False
        )
        found = jax.jit(jax.vmap(one))(starts(5))
        return found.network, found.observed, found.status

    # Steps are chosen by errors in rounding too, so that flows differ by their tolerance.
    same(answers(run), 1e-6)


@pytest.mark.parametrize("widths", [(5, 5, 5, 1), (5, 30, 1)], ids=["lanes", "wide"])
def test_batches_of_descents(answers, problem, widths):
    def run():
        one = lambda network: jf.gradient_descent(
            problem,
            network,
            200,
            step_size=0.02,
            every=100,
            observe={"loss": jf.loss_value},
        )
        found = jax.jit(jax.vmap(one))(starts(20, widths))
        return found.network, found.observed, found.status

    # Two hundred steps of sums in another order.
    same(answers(run), 1e-11)


def test_batches_of_the_sharpness(answers, problem):
    run = lambda: jax.jit(jax.vmap(lambda n: jf.sharpness(problem, n)))(starts(20))
    same(answers(run), 1e-12)


def test_slopes_of_batches(answers, problem):
    def run():
        measured = lambda n: (
            jnp.sum(jf.observables.singular_values(problem, n)[0])
            + jf.sharpness(problem, n)
        )
        return jax.jit(jax.vmap(jax.grad(measured)))(starts(5))

    same(answers(run), 1e-9)


def test_a_sweep(answers, problem):
    def descend(key, step_size):
        start = jf.init.gaussian((5, 5, 5, 1), scale=0.4, key=key)
        watch = {"sharpness": jf.sharpness, "alignment": jf.alignment}
        return jf.gradient_descent(
            problem, start, 200, step_size=step_size, every=100, observe=watch
        )

    def run():
        axes = {"step_size": [0.01, 0.02]}
        found = jf.sweep(descend, key=jr.key(1), seeds=4, axes=axes)
        return {name: found[name].values for name in found}

    # Two hundred steps of sums in another order.
    same(answers(run), 1e-10)


def products(jaxpr):
    """The precisions of all matrix products in a program."""
    for equation in jaxpr.eqns:
        if equation.primitive.name in ("dot_general", "conv_general_dilated"):
            yield equation.params["precision"]
        inner = lambda x: isinstance(x, Jaxpr | ClosedJaxpr)
        for leaf in jax.tree.leaves(list(equation.params.values()), is_leaf=inner):
            if inner(leaf):
                yield from products(getattr(leaf, "jaxpr", leaf))


def by_precision(function, *arguments):
    traced = jax.make_jaxpr(function)(*arguments).jaxpr
    return collections.Counter(map(str, products(traced)))


PROGRAMS = {
    "flow": lambda loss, n: jf.gradient_flow(loss, n, (0.0, 1.0)).network,
    "endless flow": lambda loss, n: jf.gradient_flow(loss, n, (0.0, jnp.inf)).network,
    "descent": lambda loss, n: jf.gradient_descent(loss, n, 10, step_size=0.1).network,
    "central flow": lambda loss, n: jf.central_flow(loss, n, 10, step_size=0.1).network,
    "sharpness": jf.sharpness,
    "spectrum": jf.spectrum,
    "Gauss-Newton spectrum": jf.observables.linear_gauss_newton_spectrum,
    "gradient norm": jf.observables.gradient_norm,
    "alignment": jf.alignment,
    "path coupling": jf.observables.path_coupling,
    "imbalance": jf.imbalance,
    "gains": jf.observables.gains,
    "tangent kernel": jf.observables.neural_tangent_kernel,
}
HIGHEST = str((jax.lax.Precision.HIGHEST,) * 2)


@pytest.mark.parametrize("name", PROGRAMS)
def test_products_are_not_rounded(problem, name):
    run = lambda network: PROGRAMS[name](problem, network)
    batch = starts(4)
    assert {*by_precision(run, jax.tree.map(lambda w: w[0], batch))} == {HIGHEST}
    assert {*by_precision(jax.vmap(jax.jit(run)), batch)} == {HIGHEST}


@pytest.mark.parametrize("name", ["flow", "descent", "sharpness", "central flow"])
def test_nor_are_those_of_slopes(problem, name):
    @jax.jit
    def run(network):
        return sum(map(jnp.sum, jax.tree.leaves(PROGRAMS[name](problem, network))))

    batch = starts(4)
    assert {*by_precision(jax.vmap(jax.grad(run)), batch)} == {HIGHEST}


def test_nor_are_those_of_a_sweep(problem, monkeypatch):
    def descend(key):
        start = jf.init.gaussian((5, 5, 5, 1), scale=0.4, key=key)
        return jf.gradient_descent(problem, start, 10, step_size=0.1)

    seen, trace = [], programs.Program._batch
    watched = lambda self, *a: (seen.append(self), trace(self, *a))[1]
    monkeypatch.setattr(programs.Program, "_batch", watched)
    jf.sweep(descend, key=jr.key(0), seeds=3)
    program = seen[0]
    monkeypatch.undo()
    assert {*by_precision(program._batch, *program._stacks(3))} == {HIGHEST}


def test_the_precision_of_a_user_is_respected(problem):
    start = jax.tree.map(lambda w: w[0], starts(1))
    with jax.default_matmul_precision("float32"):
        seen = by_precision(lambda n: jf.sharpness(problem, n), start)
    with jax.default_matmul_precision("bfloat16"):
        rounded = by_precision(lambda n: jf.sharpness(problem, n), start)
    assert {*seen} == {HIGHEST}
    assert HIGHEST not in rounded
