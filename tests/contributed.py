"""What each contribution must do, run by `test_contributing.py` on a copy that has them."""

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jax.flatten_util import ravel_pytree

import jaxflow as jf

STEP = 0.01


def test_an_observable_is_recorded_batched_and_differentiated(problem, network):
    watch = {"norm": jf.observables.weight_norm}

    def end(factor):
        start = jax.tree.map(lambda w: factor * w, network)
        run = jf.gradient_descent(problem, start, 2, step_size=STEP, every=2, observe=watch)
        return run.observed["norm"]

    factors = 1 + jnp.array([-1e-5, 0, 1e-5])
    norms, slopes = jax.jit(jax.vmap(lambda f: (end(f), jax.jacfwd(end)(f))))(factors)
    weights, _ = ravel_pytree(network)
    np.testing.assert_allclose(norms[1], jax.jit(end)(1.0), rtol=1e-12)
    np.testing.assert_allclose(norms[1, 0], np.linalg.norm(weights), rtol=1e-12)
    np.testing.assert_allclose(slopes[1], (norms[2] - norms[0]) / 2e-5, rtol=1e-6)


def test_an_observable_takes_modules():
    module = eqx.nn.MLP(5, 1, 4, 1, key=jr.key(0))
    weights, _ = ravel_pytree(eqx.filter(module, eqx.is_array))
    norm = jf.observables.weight_norm(lambda module: jnp.sum(module(jnp.ones(5))), module)
    np.testing.assert_allclose(norm, np.linalg.norm(weights), rtol=1e-12)


def test_a_loss_is_followed_descended_and_measured():
    x = jr.normal(jr.key(0), (20, 5))
    loss = 0.5 * jf.losses.PseudoHuber(
        x, jnp.sum(x, axis=1, keepdims=True)
    ) + jf.WeightDecay(0.1)
    network = jf.init.gaussian((5, 3, 1), scale=0.5, key=jr.key(1))
    flow = jf.gradient_flow(loss, network, (0.0, 20 * STEP), solver=dfx.Tsit5())
    descent = jf.gradient_descent(loss, network, 20, step_size=STEP, every=20)
    fallen = flow.observed["loss"][0] - flow.observed["loss"][1]
    assert fallen > 0
    # What is left is of the order of the step.
    gap = jnp.max(jnp.abs(descent.observed["loss"] - flow.observed["loss"]))
    assert gap < STEP * fallen
    numbers, restore = ravel_pytree(network)
    hessian = jax.jit(jax.hessian(lambda numbers: loss(restore(numbers))))(numbers)
    top = jnp.linalg.eigvalsh(hessian)[-1]
    np.testing.assert_allclose(jf.sharpness(loss, network), top, rtol=1e-8)


def test_a_paper_is_found_by_its_name(problem):
    paper = jf.papers.ali_kolter_tibshirani_2019
    np.testing.assert_allclose(paper.flow(problem, jnp.inf), problem.target, rtol=1e-10)
