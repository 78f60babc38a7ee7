"""The stiff integrator: its functions, its order, its derivatives, and what it refuses."""

import decimal

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import jaxflow as jf
from jaxflow._linalg.krylov import krylov, phi


def exact_phi(z, highest):
    """By the Taylor series, in two hundred digits more than it loses."""
    with decimal.localcontext() as context:
        context.prec = 800
        z = decimal.Decimal(z)
        values = []
        for k in range(highest + 1):
            term = decimal.Decimal(1)
            for j in range(1, k + 1):
                term /= j
            total, j = decimal.Decimal(0), k
            while abs(term) > decimal.Decimal(10) ** -500 or j - k < abs(z):
                total += term
                j += 1
                term *= z / j
            values.append(float(total))
        return values


def test_phi_functions_are_right_to_rounding():
    small = np.geomspace(1e-9, 0.99, 9)
    z = np.concatenate([-np.geomspace(1.01, 300, 12), -small, [0.0], small, [1.01, 9, 90]])
    wanted = np.array([exact_phi(float(value), 6) for value in z]).T
    found = np.stack(phi(jnp.array(z), 6))
    np.testing.assert_allclose(found, wanted, rtol=3e-13)
    np.testing.assert_allclose(found[:5], wanted[:5], rtol=1e-14)


def matrices():
    key = jr.key(0)
    square = jr.normal(key, (60, 60))
    axes = jnp.linalg.qr(square)[0]
    return {
        "general": (square + square.T) / 4,
        "stiff": -axes @ jnp.diag(jnp.geomspace(1e-6, 1e4, 60)) @ axes.T,
        "crowded": -axes @ jnp.diag(jnp.linspace(0, 1e4, 60)) @ axes.T,
        "few values": axes
        @ jnp.diag(jnp.repeat(jnp.array([-300.0, 0.0, 2.0]), 20))
        @ axes.T,
        "multiple of one": -7 * jnp.eye(60),
        "zero": jnp.zeros((60, 60)),
    }


@pytest.mark.parametrize("kind", matrices())
def test_krylov_modes_give_functions_of_the_matrix(kind):
    """To the error that was allowed, whenever they say so."""
    matrix, v = matrices()[kind], jr.normal(jr.key(1), (60,))
    rates, axes = jnp.linalg.eigh(matrix)
    split = eqx.filter_jit(
        lambda m, v, h: krylov(lambda w: m @ w, v, h, jnp.asarray(1e-8), largest=40)
    )
    met = []
    for duration in (1e-4, 1e-2, 1.0):
        modes = split(matrix, v, jnp.asarray(duration))
        met.append(bool(modes.met))
        if not modes.met:
            continue
        for k in (1, 3, 4):
            exact = axes @ (phi(duration * rates)[k] * (axes.T @ v))
            ours = (phi(duration * modes.rates)[k] * modes.coefficients) @ modes.basis
            assert jnp.linalg.norm(ours - exact) <= 2e-8 * max(1, duration * 300)
    assert met[0]
    # Sixty crowded eigenvalues up to -10,000 / h are too much for forty products.
    assert met[-1] == (kind != "crowded")


def test_krylov_modes_of_what_is_not_finite_are_not_met():
    for v in (jnp.full(60, jnp.nan), jnp.zeros(60)):
        modes = krylov(lambda w: 2 * w, v, jnp.ones(()), jnp.asarray(1e-8))
        assert modes.met == jnp.all(jnp.isfinite(v))


@pytest.fixture(scope="module")
def start(problem):
    del problem
    return jf.init.gaussian((5, 5, 5, 1), scale=0.5, key=jr.key(3))


def velocity(time, network, loss):
    del time
    return jax.tree.map(jnp.negative, jax.grad(loss.excess)(network))


TIMES = (0.4, 1.0)


FORWARD, REVERSE = dfx.ForwardMode(), dfx.RecursiveCheckpointAdjoint()


@eqx.filter_jit
def steps(loss, network, count, solver, adjoint=FORWARD):
    """Where equal steps lead, at two times, the first of them inside a step or not."""
    return dfx.diffeqsolve(
        dfx.ODETerm(velocity),
        solver,
        0.0,
        1.0,
        1 / count.astype(float),
        network,
        args=loss,
        saveat=dfx.SaveAt(ts=jnp.array(TIMES)),
        stepsize_controller=dfx.ConstantStepSize(),
        adjoint=adjoint,
        max_steps=2048,
    ).ys


flat = lambda networks: jax.vmap(lambda n: ravel_pytree(n)[0])(networks)


@pytest.fixture(scope="module")
def truth(problem, start):
    return flat(steps(problem, start, jnp.asarray(2000), dfx.Dopri8()))


def test_order_five(problem, start, truth):
    counts = np.array([48, 72, 108, 162])
    solver = jf.dynamics.ExponentialRosenbrock(tolerance=1e-15)
    ends = [flat(steps(problem, start, jnp.asarray(n), solver)) for n in counts]
    errors = np.array([jnp.linalg.norm(end - truth, axis=1) for end in ends])
    orders = -np.polyfit(np.log(counts), np.log(errors), 1)[0]
    assert orders[1] > 4.7
    # The dense output, which is not at a node of every step, is of order four.
    assert orders[0] > 3.7


def test_linear_flows_are_exact_in_one_step(problem):
    """Depth 1: the Hessian is constant, and the step a thousand times too long for most."""
    covariance = jnp.diag(jnp.array([1e3, 10.0, 10.0, 0.1, 0.0]))
    loss = jf.Regression(jnp.ones((1, 5)), covariance, jnp.zeros(()))
    network = jf.DeepLinear((jnp.zeros((1, 5)),))
    end = steps(loss, network, jnp.asarray(1), jf.dynamics.ExponentialRosenbrock())
    for k, time in enumerate(TIMES):
        wanted = 1 - jnp.exp(-2 * time * jnp.diagonal(covariance))
        np.testing.assert_allclose(end.weights[0][k, 0], wanted, atol=1e-12)


@pytest.mark.exhaustive
def test_derivatives_are_those_of_the_flow(problem, start, truth):
    """Reverse and forward, in loss and start, at the end and inside steps."""
    del truth
    solver = jf.dynamics.ExponentialRosenbrock(tolerance=1e-15)

    def objective(loss, network, count, solver, adjoint=REVERSE):
        return jnp.sum(flat(steps(loss, network, count, solver, adjoint)) ** 3)

    slope = eqx.filter_jit(eqx.filter_grad(lambda both, *rest: objective(*both, *rest)))
    ours = slope((problem, start), jnp.asarray(100), solver)
    wanted = slope((problem, start), jnp.asarray(1000), dfx.Dopri8())
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)
    along = lambda n: objective(problem, n, jnp.asarray(100), solver, FORWARD)
    _, forward = eqx.filter_jit(lambda: jax.jvp(along, (start,), (start,)))()
    inner = sum(
        jnp.vdot(a, b)
        for a, b in zip(jax.tree.leaves(ours[1]), jax.tree.leaves(start), strict=True)
    )
    np.testing.assert_allclose(forward, inner, rtol=1e-9)


def test_derivatives_are_right_where_eigenvalues_coincide():
    """White data and identity layers: the Hessian has three eigenvalues."""
    loss = jf.Regression(2.0 * jnp.eye(3), jnp.eye(3), jnp.zeros(()))
    network = jf.DeepLinear((jnp.eye(3),) * 2)
    kick = jax.tree.map(lambda w: jr.normal(jr.key(5), w.shape), network)
    solver = jf.dynamics.ExponentialRosenbrock(tolerance=1e-15)

    @eqx.filter_jit
    def objective(size):
        moved = jax.tree.map(lambda w, k: w + size * k, network, kick)
        return jnp.sum(flat(steps(loss, moved, jnp.asarray(20), solver, REVERSE)) ** 3)

    step = 1e-4
    numeric = (objective(step) - objective(-step)) / (2 * step)
    np.testing.assert_allclose(jax.grad(objective)(0.0), numeric, rtol=1e-7)


def test_an_absurd_step_is_rejected(problem, start):
    flow = lambda first: dfx.diffeqsolve(
        dfx.ODETerm(velocity),
        jf.dynamics.ExponentialRosenbrock(),
        0.0,
        1e3,
        first,
        start,
        args=problem,
        stepsize_controller=dfx.PIDController(rtol=1e-8, atol=1e-10),
    )
    careful, absurd = flow(1e-3), flow(1e3)
    assert absurd.stats["num_rejected_steps"] > 0
    for a, b in zip(careful.ys.weights, absurd.ys.weights, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_fields_that_depend_on_time_are_refused(problem, start):
    moving = lambda t, y, loss: jax.tree.map(lambda v: t * v, velocity(t, y, loss))
    with pytest.raises(ValueError, match="does not depend on time"):
        dfx.diffeqsolve(
            dfx.ODETerm(moving),
            jf.dynamics.ExponentialRosenbrock(),
            0.0,
            1.0,
            0.1,
            start,
            args=problem,
        )


def test_derivatives_of_large_networks_are_refused():
    loss = jf.Regression(jnp.ones((1, 4001)), jnp.eye(4001), jnp.zeros(()))
    network = jf.DeepLinear((jnp.zeros((1, 4001)),))
    end = lambda n: jnp.sum(
        steps(
            loss, n, jnp.asarray(1), jf.dynamics.ExponentialRosenbrock(), REVERSE
        ).weights[0]
    )
    assert jnp.isfinite(end(network))
    with pytest.raises(ValueError, match="at most 4000 weights, not 4001"):
        jax.grad(end)(network)
