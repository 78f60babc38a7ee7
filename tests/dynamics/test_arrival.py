"""Where a flow ends: limits, saddles, plateaus, artifacts, and derivatives of limits."""

import functools as ft

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import lineax as lx
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from scipy.integrate import solve_ivp

import jaxflow as jf

FOREVER = (0.0, np.inf)
DEEP = (5,) * 10 + (1,)
arrive = ft.partial(jf.gradient_flow, times=FOREVER, throw=False)


def left(loss, network):
    """The excess, as a share of what there is to explain."""
    zero = jax.tree.map(jnp.zeros_like, network)
    return loss.excess(network) / loss.excess(zero)


def conditioned(number):
    """Fifty samples of five inputs, whose covariance has this condition number."""
    keys = jr.split(jr.key(0), 4)
    rotate = jnp.linalg.qr(jr.normal(keys[0], (5, 5)))[0]
    spread = jnp.geomspace(1, number**-0.5, 5) * 50**0.5
    x = (jnp.linalg.qr(jr.normal(keys[1], (50, 5)))[0] * spread[None]) @ rotate
    return jf.Regression.from_data(
        x, x @ jr.normal(keys[2], (5,)) + 0.1 * jr.normal(keys[3], (50,))
    )


class TestHardStarts:
    """Where Tsit5 does not arrive in 100,000 steps."""

    def test_large_scales(self, problem):
        """Depth 10: sharpness from 3e2 to 1e5. One batch, one program."""
        keys = jr.split(jr.key(1), 8)
        scales = jnp.repeat(jnp.array([0.45, 0.6]), 4)
        draw = lambda scale, key: jf.init.gaussian(DEEP, scale=scale, key=key)
        starts = jax.vmap(draw)(scales, keys)
        runs = eqx.filter_vmap(lambda start: arrive(problem, start))(starts)
        assert (runs.status == jf.Status.CONVERGED).all()
        assert (jax.vmap(lambda n: left(problem, n))(runs.network) <= 1e-12).all()
        assert (runs.num_steps < 1500).all()
        sharp = jax.vmap(lambda n: jf.sharpness(problem, n))(runs.network)
        assert jnp.max(sharp) > 1e3

    @pytest.mark.parametrize("number", [1e2, 1e6])
    def test_ill_conditioned_data(self, number):
        loss = conditioned(number)
        run = arrive(loss, jf.init.gaussian(DEEP, scale=0.35, key=jr.key(1)))
        assert run.status == jf.Status.CONVERGED
        assert left(loss, run.network) <= 1e-12
        assert run.num_steps < 5000

    def test_fewer_samples_than_inputs(self):
        loss = jf.Regression.from_data(
            jr.normal(jr.key(0), (3, 5)), jr.normal(jr.key(1), (3,))
        )
        run = arrive(loss, jf.init.gaussian(DEEP, scale=0.6, key=jr.key(2)))
        assert run.status == jf.Status.CONVERGED
        assert left(loss, run.network) <= 1e-12

    @pytest.mark.exhaustive
    def test_many_residual_layers(self):
        """Forty of them take twice as long to compile, and are in the benchmark."""
        x, readout = jr.normal(jr.key(0), (50, 5)), jr.normal(jr.key(5), (5,)) / 5**0.5
        loss = jf.Regression.from_data(x, x @ jr.normal(jr.key(1), (5,)), readout=readout)
        run = arrive(loss, jf.init.residual(5, 20, scale=1.0, key=jr.key(0)))
        assert run.status == jf.Status.CONVERGED
        assert left(loss, run.network) <= 1e-12

    def test_single_precision(self, problem):
        start = jf.init.gaussian(DEEP, scale=0.6, key=jr.key(0))
        single = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), (problem, start))
        run = arrive(*single)
        assert run.status == jf.Status.CONVERGED
        assert left(single[0], run.network) <= 1e-6


def test_limits_agree_with_an_independent_integration(problem):
    """Thirty-two starts by SciPy's DOP853 at 1e-12, to where nothing moves any more."""
    keys = jr.split(jr.key(8), 32)
    draw = lambda key: jf.init.gaussian((5, 5, 5, 1), scale=0.5, key=key)
    starts = jax.vmap(draw)(keys)
    runs = eqx.filter_vmap(lambda start: arrive(problem, start, tolerance=1e-18))(starts)
    assert (runs.status == jf.Status.CONVERGED).all()
    like = jax.tree.map(lambda w: w[0], starts)
    unravel = ravel_pytree(like)[1]
    slope = jax.jit(lambda w: ravel_pytree(jax.grad(problem.excess)(unravel(w)))[0])
    for k in range(32):
        first = np.asarray(ravel_pytree(jax.tree.map(lambda w, k=k: w[k], starts))[0])
        options = {"method": "DOP853", "rtol": 1e-12, "atol": 1e-14}
        velocity = lambda t, w: -np.asarray(slope(w))
        truth = solve_ivp(velocity, (0, 25), first, **options).y[:, -1]
        ours = jax.tree.map(lambda w, k=k: w[k], runs.network)
        np.testing.assert_allclose(ours.product, unravel(truth).product, atol=1e-8)
        np.testing.assert_allclose(ravel_pytree(ours)[0], truth, atol=2e-7)


class TestVerdicts:
    def test_a_saddle_that_the_flow_never_leaves(self):
        """From the identity a negative eigenvalue is out of reach: det W > 0 throughout."""
        target = jnp.diag(jnp.array([2.0, -0.5]))
        loss = jf.Regression(target, jnp.eye(2), jnp.zeros(()))
        run = arrive(loss, jf.DeepLinear((jnp.eye(2),) * 3))
        assert run.status == jf.Status.SADDLE
        np.testing.assert_allclose(
            run.network.product, jnp.diag(jnp.array([2.0, 0])), atol=1e-6
        )
        np.testing.assert_allclose(loss.excess(run.network), 0.25, rtol=1e-6)
        assert 0 <= run.predicted_decrease <= 1e-10
        assert jf.observables.determinant(loss, run.network) >= 0

    def test_an_artifact_of_rounding_shows_in_the_determinant(self):
        """Not normal, so that rounding breaks the balance, and the saddle is strict."""
        target = jr.normal(jr.key(4), (3, 3))
        target = target.at[0].multiply(-jnp.sign(jnp.linalg.det(target)))
        loss = jf.Regression(target, jnp.eye(3), jnp.zeros(()))
        start = jf.DeepLinear((jnp.eye(3),) * 2)
        watch = {"det": jf.observables.determinant, "gap": jf.imbalance}
        run = arrive(loss, start, observe=watch)
        assert run.status == jf.Status.CONVERGED  # The exact flow is not.
        assert run.observed["gap"].max() < 1e-6  # And no conservation law shows it.
        assert run.observed["det"][0] > 0 > run.observed["det"][-1]
        # A run that watches does not get there.
        crossed = lambda loss, network: jf.observables.determinant(loss, network) < 0
        stopped = arrive(loss, start, until=crossed)
        assert stopped.status != jf.Status.CONVERGED

    @pytest.mark.parametrize("depth", [2, 3])
    def test_the_origin_is_a_plateau(self, problem, depth):
        network = jf.DeepLinear((jnp.zeros((5, 5)),) * (depth - 1) + (jnp.zeros((1, 5)),))
        run = arrive(problem, network)
        assert (run.status, run.num_steps, run.predicted_decrease) == (
            jf.Status.SADDLE,
            0,
            0,
        )

    def test_a_long_plateau_is_crossed(self, problem):
        """From 1e-3 at depth 3 the gradient is below 1e-5 until the time is above 100."""
        run = arrive(problem, jf.init.gaussian((5, 5, 5, 1), scale=1e-3, key=jr.key(0)))
        assert run.status == jf.Status.CONVERGED
        assert run.time[-1] > 100
        early = jf.gradient_flow(
            problem, jf.init.gaussian((5, 5, 5, 1), scale=1e-3, key=jr.key(0)), (0.0, 10.0)
        )
        assert early.status == jf.Status.UNCONVERGED
        np.testing.assert_allclose(
            early.predicted_decrease, problem.excess(early.network), rtol=1e-6
        )

    def test_a_minimum_above_the_floor(self, problem):
        """With weight decay no floor is known; the curvature says what remains."""
        loss = problem + jf.WeightDecay(1e-2)
        start = jf.init.gaussian((5, 5, 5, 1), scale=0.5, key=jr.key(0))
        run = arrive(loss, start)
        assert run.status == jf.Status.CONVERGED
        assert loss.excess(run.network) > 1e-3
        short = jf.gradient_flow(loss, start, (0.0, 0.8 * run.time[-1]))
        fell = loss.excess(short.network) - loss.excess(run.network)
        assert short.status == jf.Status.CONVERGED
        # The difference of two losses of 0.1 rounds at 1e-17.
        np.testing.assert_allclose(short.predicted_decrease, fell, rtol=1e-3, atol=1e-15)

    def test_a_spent_budget_is_told_from_a_failure(self, problem):
        run = arrive(
            problem, jf.init.gaussian((5, 5, 5, 1), scale=0.5, key=jr.key(0)), max_steps=20
        )
        assert run.status == jf.Status.MAX_STEPS
        assert not run.ok


def wells(curvatures, weights):
    """A positive function at rest at ones, with these curvatures there.

    It has two wells along each direction that curves down, one along the others.
    """
    away = weights - 1
    up = curvatures * away**2 / 2
    down = (away**2 + curvatures) ** 2 / 4
    return 0.01 + jnp.sum(jnp.where(curvatures > 0, up, down))


STATIONARY = {
    "minimum": ([1.0, 3.0], jf.Status.CONVERGED),
    "saddle": ([1.0, -0.5], jf.Status.SADDLE),
    "hilltop": ([-1.0, -0.5], jf.Status.SADDLE),
}
RUNS = {
    "flow": lambda loss, start: jf.gradient_flow(loss, start, (0.0, 20.0)),
    "endless flow": arrive,
    "descent": lambda loss, start: jf.gradient_descent(
        loss, start, 200, step_size=0.1, every=200
    ),
}


@pytest.mark.parametrize("run", RUNS.values(), ids=RUNS)
@pytest.mark.parametrize(("curvatures", "status"), STATIONARY.values(), ids=STATIONARY)
def test_what_curves_down_at_rest_has_not_converged(run, curvatures, status):
    """Of a function of the user's own, nothing but the curvature tells them apart."""
    curvatures = jnp.array(curvatures)
    end = run(eqx.Partial(wells, curvatures), jnp.where(curvatures > 0, 1.3, 1.0))
    assert end.status == status
    np.testing.assert_allclose(end.network, 1, atol=1e-3)


@pytest.mark.parametrize(
    ("factor", "status"), [(0.8, jf.Status.CONVERGED), (1.25, jf.Status.SADDLE)]
)
def test_a_saddle_is_where_the_weights_could_gain_enough(factor, status):
    r"""By half the curvature times their square, beside the root of the tolerance."""
    tolerance, weights = 1e-8, jnp.array([2.0, 2.0])
    at_zero = 1 + 4 / 2
    down = factor * tolerance**0.5 * at_zero * 2 / 8

    def saddle(weights):
        up, along = weights - 2
        return 1 + up**2 / 2 - down * along**2 / 2

    options = {"step_size": 0.1, "tolerance": tolerance}
    run = jf.gradient_descent(saddle, weights, 1, **options)
    assert run.status == status


@pytest.mark.parametrize("decades", [3, 6, 10])
def test_a_flow_has_converged_to_the_tolerance_that_it_was_given(decades):
    """One weight, whose excess falls as exp(-4 t): stopped where that is the tolerance."""
    loss = jf.Regression(jnp.ones((1, 1)), jnp.ones((1, 1)), jnp.zeros(()))
    end = decades * np.log(10) / 4
    follow = ft.partial(jf.gradient_flow, loss, jf.DeepLinear((jnp.zeros((1, 1)),)))
    for factor, status in ((2, jf.Status.CONVERGED), (0.5, jf.Status.UNCONVERGED)):
        run = follow((0.0, end), rtol=1e-12, tolerance=factor * 10.0**-decades)
        np.testing.assert_allclose(loss.excess(run.network), 10.0**-decades, rtol=1e-3)
        np.testing.assert_allclose(run.predicted_decrease, 10.0**-decades, rtol=1e-3)
        assert run.status == status


@pytest.mark.exhaustive
def test_records_are_the_same_whichever_solver_is_at_work():
    """A stiff flow, recorded before, around and after the switch."""
    loss = conditioned(1e4)
    start = jf.init.gaussian((5, 5, 5, 1), scale=1.0, key=jr.key(1))
    times = np.concatenate([[0.0], np.geomspace(1e-3, 300, 20)])
    watch = {"network": jf.weights}
    run = jf.gradient_flow(loss, start, times, observe=watch)
    alone = jf.gradient_flow(
        loss, start, times, observe=watch, solver=dfx.Dopri8(), rtol=1e-10
    )
    assert run.num_steps < alone.num_steps / 3
    pairs = zip(
        run.observed["network"].weights, alone.observed["network"].weights, strict=True
    )
    for ours, wanted in pairs:
        np.testing.assert_allclose(ours, wanted, atol=1e-6)


def test_steps_capped_by_the_sharpness_let_an_explicit_solver_settle(problem):
    """Else its own error keeps the gradient from ever falling below the threshold."""
    start = jf.init.gaussian((5, 5, 5, 1), scale=0.5, key=jr.key(0))
    still = lambda loss, network: jf.observables.gradient_norm(loss, network) < 1e-8
    stable = lambda loss, network: 3 / jf.sharpness(loss, network)
    options = dict(until=still, solver=dfx.Tsit5(), rtol=1e-5, max_steps=3000, throw=False)
    rattling = jf.gradient_flow(problem, start, (0.0, 1e6), **options)
    settled = jf.gradient_flow(problem, start, (0.0, 1e6), max_step=stable, **options)
    assert rattling.status == jf.Status.MAX_STEPS
    assert settled.status == jf.Status.CONVERGED
    assert jf.observables.gradient_norm(problem, settled.network) < 1e-8


SOLVERS = [
    None,
    pytest.param(lx.CG(rtol=1e-10, atol=1e-12), marks=pytest.mark.exhaustive),
]


class TestDerivatives:
    """Of limits, against finite differences."""

    step = 1e-4

    def numeric(self, function):
        function = eqx.filter_jit(function)
        up, down = function(jnp.asarray(self.step)), function(jnp.asarray(-self.step))
        return (up - down) / (2 * self.step)

    @pytest.mark.parametrize("solver", SOLVERS)
    def test_of_the_end_to_end_map_by_the_implicit_function_theorem(self, problem, solver):
        """It is constant along the manifold of minima, so the path does not matter."""
        start = jf.init.gaussian((5, 5, 5, 1), scale=0.5, key=jr.key(0))
        adjoint = dfx.ImplicitAdjoint()
        if solver is not None:
            adjoint = dfx.ImplicitAdjoint(linear_solver=solver)
        turn = jr.normal(jr.key(9), problem.target.shape)

        def end(size):
            moved = eqx.tree_at(lambda p: p.target, problem, problem.target + size * turn)
            run = arrive(moved, start, adjoint=adjoint, tolerance=1e-20)
            return jnp.sum(run.network.product**3)

        wanted = 3 * jnp.sum(problem.target**2 * turn)
        np.testing.assert_allclose(jax.grad(end)(jnp.zeros(())), wanted, rtol=1e-6)

    @pytest.mark.exhaustive
    def test_of_an_isolated_minimum(self, problem):
        """Weight decay isolates the sharpness of the minimum from the start."""
        start = jf.init.gaussian((5, 5, 5, 1), scale=0.5, key=jr.key(0))

        def end(size, adjoint=dfx.ImplicitAdjoint()):  # noqa: B008
            loss = problem + jf.WeightDecay(0.02 + size)
            run = arrive(loss, start, adjoint=adjoint, tolerance=1e-18)
            return jf.sharpness(loss, run.network)

        slope = jax.grad(end)(jnp.zeros(()))
        np.testing.assert_allclose(slope, self.numeric(end), rtol=1e-4)

    def test_of_the_final_sharpness_in_scale_and_covariance_through_the_path(self, problem):
        """On the manifold of minima the limit depends on the path, and so must this."""
        draw = lambda scale: jf.init.gaussian((5, 5, 5, 1), scale=scale, key=jr.key(0))
        turn = jnp.diag(jnp.arange(5.0))

        def end(size):
            covariance = problem.covariance + size * turn
            moved = eqx.tree_at(lambda p: p.covariance, problem, covariance)
            return jf.sharpness(moved, arrive(moved, draw(0.5 + size)).network)

        slope = jax.grad(end)(jnp.zeros(()))
        np.testing.assert_allclose(slope, self.numeric(end), rtol=1e-5)

    @pytest.mark.exhaustive
    def test_backwards_in_time(self, problem):
        """The adjoint equation, solved next to the flow run backwards."""
        start = jf.init.gaussian((5, 5, 5, 1), scale=0.5, key=jr.key(0))

        def end(size, adjoint):
            network = jax.tree.map(lambda w: (1 + size) * w, start)
            # Briefly: backwards, what contracted expands.
            options = {"solver": dfx.Dopri8(), "adjoint": adjoint, "rtol": 1e-10}
            run = jf.gradient_flow(problem, network, (0.0, 0.1, 0.2), **options)
            return run.observed["loss"][1] + jnp.sum(run.network.product**3)

        checkpointed, backwards = (
            jax.grad(lambda size, adjoint=adjoint: end(size, adjoint))(jnp.zeros(()))
            for adjoint in (dfx.RecursiveCheckpointAdjoint(), dfx.BacksolveAdjoint())
        )
        np.testing.assert_allclose(backwards, checkpointed, rtol=1e-6)

    def test_backwards_needs_an_end(self, problem, network):
        with pytest.raises(ValueError, match="finite times and no `until`"):
            arrive(problem, network, adjoint=dfx.BacksolveAdjoint())


@pytest.mark.exhaustive
def test_a_batch_is_its_members(problem):
    """Also where the times or the loss differ, and under derivatives."""
    start = jf.init.gaussian((5, 5, 5, 1), scale=0.5, key=jr.key(0))

    def end(factor, time):
        times = jnp.stack([0 * time, time])
        watch = {"scaled": lambda loss, network: factor * loss(network)}
        options = {"observe": watch, "solver": dfx.Tsit5()}  # Which compiles soonest.
        run = jf.gradient_flow(
            problem, jax.tree.map(lambda w: factor * w, start), times, **options
        )
        return run.observed["scaled"][-1]

    factors, times = jnp.array([0.5, 1.0, 2.0]), jnp.array([1.0, 0.5, 0.2])
    values, slopes = jax.vmap(jax.value_and_grad(end))(factors, times)
    together = jax.grad(lambda f: jnp.sum(jax.vmap(end)(f, times)))(factors)
    np.testing.assert_allclose(together, slopes, rtol=1e-9)
    alone = jax.value_and_grad(end)(factors[0], times[0])
    np.testing.assert_allclose((values[0], slopes[0]), alone, rtol=1e-8)


@pytest.mark.parametrize("times", [(np.inf, 1.0), (0.0, np.inf, np.inf), (0.0, -np.inf)])
def test_only_the_last_time_may_be_infinite(problem, network, times):
    with pytest.raises(ValueError, match="finite, up to the last"):
        jf.gradient_flow(problem, network, times)
