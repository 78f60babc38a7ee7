"""Compiler options: the same numbers, where they go, and what turns them off.

Other tests compile without most optimizations, and so without these options.
"""

import diffrax as dfx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxflow as jf
from jaxflow import _compilation
from jaxflow._compilation import SWITCH, options, program


@pytest.fixture(autouse=True)
def as_users_have_it(monkeypatch):
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    monkeypatch.delenv(SWITCH, raising=False)
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


CALLS = {
    "flow": lambda loss, n: jf.gradient_flow(loss, n, (0.0, 1.0), solver=dfx.Tsit5()),
    "descent": lambda loss, n: jf.gradient_descent(loss, n, 20, step_size=0.02),
    "spectrum": lambda loss, n: jf.spectrum(loss, n, largest=2).values,
    "kernel": jf.observables.neural_tangent_kernel,
}


@pytest.mark.parametrize("name", CALLS)
def test_numbers_are_the_same(problem, network, monkeypatch, name):
    assert options()
    quick = CALLS[name](problem, network)
    monkeypatch.setenv(SWITCH, "1")
    assert not options()
    full = CALLS[name](problem, network)
    for one, other in zip(*map(jax.tree.leaves, (quick, full)), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-12)


def test_sweeps_have_them_too(problem, monkeypatch):
    def run(key):
        start = jf.init.gaussian((5, 5, 5, 1), scale=0.4, key=key)
        return {"sharpness": jf.sharpness(problem, start)}

    compiled, given = jax.stages.Lowered.compile, []
    watched = lambda self, options: (given.append(options), compiled(self, options))[1]
    monkeypatch.setattr(jax.stages.Lowered, "compile", watched)
    jf.sweep(run, key=jax.random.key(0), seeds=2)
    assert given
    assert all(options().items() <= each.items() for each in given)


def test_parts_of_other_programs_are_compiled_as_these_are(problem, network):
    """Where JAX refuses options, which would be an error here."""
    alone = jf.sharpness(problem, network)
    run = lambda network: jf.sharpness(problem, network)
    batch = jax.tree.map(lambda w: w[None], network)
    for found in (
        jax.jit(run)(network),
        jax.jit(lambda: run(network))(),
        jax.value_and_grad(run)(network)[0],
        jax.vmap(run)(batch)[0],
        jax.vmap(lambda x: run(network) + 0 * x)(jnp.ones(1))[0],
    ):
        np.testing.assert_allclose(found, alone, rtol=1e-12)


def test_what_xla_does_not_know_is_left_out(monkeypatch):
    """Of an option with another name in some version nobody shall hear."""
    given = {"xla_no_such_option": True, "xla_backend_optimization_level": 1}
    monkeypatch.setattr(_compilation, "_OPTIONS", given)
    _compilation._available.cache_clear()
    try:
        assert options() == {"xla_backend_optimization_level": 1}
        assert program(lambda x: x + 1)(jnp.ones(())) == 2
    finally:
        _compilation._available.cache_clear()


def test_what_users_chose_stays(monkeypatch):
    level = "xla_backend_optimization_level"
    assert level in options()
    monkeypatch.setenv("XLA_FLAGS", f"--{level}=3")
    assert options()
    assert level not in options()
    jax.config.update("jax_disable_most_optimizations", True)
    assert not options()
