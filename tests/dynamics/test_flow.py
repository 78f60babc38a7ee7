"""Gradient flow: its accuracy, its conservation laws, its derivatives, its errors."""

import functools as ft
import importlib

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import jaxflow as jf
from jaxflow.papers import marion_chizat_2024 as theory


def end_to_end(loss, network):
    return loss.linear_map(network)[0]


def far(loss, network):
    return loss.excess(network) < 1e-3


@pytest.mark.parametrize("number", range(3))
def test_flow_agrees_with_the_independent_implementation(reference, number):
    case = reference["gradient_flow"][number]
    readout = None if case["p"] is None else np.array(case["p"])
    problem = jf.Regression.from_data(
        np.array(case["X"]), np.array(case["y"]), readout=readout
    )
    start = jf.DeepLinear(tuple(jnp.atleast_2d(jnp.array(w)) for w in case["W0"]))
    watch = {
        "excess": jf.observables.excess_loss,
        "w": end_to_end,
        "sharpness": jf.sharpness,
    }
    times = np.array(case["t"], float)
    flow = jf.gradient_flow(
        problem, start, times, observe=watch, solver=dfx.Dopri8(), rtol=1e-12
    )
    np.testing.assert_allclose(flow.observed["w"], case["w_prod"], atol=1e-8)
    np.testing.assert_allclose(
        flow.observed["excess"], case["excess"], rtol=1e-6, atol=1e-13
    )
    np.testing.assert_allclose(flow.observed["sharpness"], case["sharpness"], rtol=1e-7)
    for end, wanted in zip(flow.network.weights, case["W_final"], strict=True):
        np.testing.assert_allclose(end, np.atleast_2d(wanted), atol=1e-8)


@pytest.mark.parametrize(
    "rtol", [1e-4, pytest.param(1e-6, marks=pytest.mark.exhaustive), 1e-8]
)
def test_imbalance_is_conserved_up_to_the_tolerance(problem, network, rtol):
    flow = jf.gradient_flow(
        problem, network, jnp.linspace(0.0, 10.0, 3), rtol=rtol, atol=rtol
    )
    before = theory.conserved(problem, network)
    after = theory.conserved(problem, flow.network)
    drift = max(jnp.max(jnp.abs(a - b)) for a, b in zip(before, after, strict=True))
    assert drift < 10 * rtol


@pytest.fixture(scope="module")
def long_flow(problem, network):
    watch = {"excess": jf.observables.excess_loss, "network": jf.weights}
    return jf.gradient_flow(problem, network, jnp.linspace(0.0, 60.0, 61), observe=watch)


def test_flow_arrives_and_says_so(problem, long_flow):
    assert long_flow.status == jf.Status.CONVERGED
    assert long_flow.ok
    assert jf.observables.distance(problem, long_flow.network) < 1e-6


def test_loss_falls_along_the_flow(long_flow):
    assert jnp.all(jnp.diff(long_flow.observed["excess"]) <= 1e-12)


def test_snapshots_are_networks_over_time(long_flow):
    last = jax.tree.map(lambda w: w[-1], long_flow.observed["network"])
    assert last.widths == (5, 5, 5, 1)
    np.testing.assert_array_equal(last.product, long_flow.network.product)


def test_a_flow_that_is_cut_short_is_moving(problem, network):
    flow = jf.gradient_flow(problem, network, jnp.array([0.0, 0.1]))
    assert flow.status == jf.Status.UNCONVERGED


def test_until_stops_the_flow_and_the_last_record_is_the_end(problem, network, long_flow):
    flow = jf.gradient_flow(
        problem,
        network,
        jnp.linspace(0.0, 60.0, 61),
        observe={"excess": jf.observables.excess_loss},
        until=far,
    )
    stopped = float(flow.time[-1])
    assert 0 < stopped < 60
    assert flow.observed["excess"][-1] < 1e-3
    reached = flow.time[:-1] <= stopped
    assert jnp.all(jnp.isinf(flow.time[:-1]) == ~reached)
    assert jnp.all(jnp.isnan(flow.observed["excess"][:-1]) == ~reached)
    agree = flow.observed["excess"][:-1][reached]
    wanted = long_flow.observed["excess"][:-1][reached]
    np.testing.assert_allclose(agree, wanted, rtol=1e-6)


def test_flow_from_a_minimum_stays(problem):
    start = theory.balanced_minimizer(problem, 3)
    flow = jf.gradient_flow(problem, start, jnp.array([0.0, 1.0]))
    assert flow.status == jf.Status.CONVERGED
    np.testing.assert_allclose(flow.network.product, start.product, atol=1e-14)


def test_the_origin_is_a_fixed_point_that_has_not_converged(problem):
    start = jax.tree.map(jnp.zeros_like, theory.balanced_minimizer(problem, 3))
    flow = jf.gradient_flow(problem, start, jnp.array([0.0, 1.0]))
    assert flow.status != jf.Status.CONVERGED
    assert jf.sharpness(problem, flow.network) == 0


def test_depth_one_relaxes_exponentially(problem):
    start = jf.DeepLinear((jnp.zeros((1, 5)),))
    flow = jf.gradient_flow(problem, start, jnp.array([0.0, 0.7]), rtol=1e-11)
    decay = jax.scipy.linalg.expm(-2 * 0.7 * problem.covariance)
    wanted = problem.target @ (jnp.eye(5) - decay)
    np.testing.assert_allclose(flow.network.product, wanted, atol=1e-9)


def test_weight_decay_shrinks_imbalance_exponentially(problem, network):
    loss = problem + jf.WeightDecay(0.05)
    flow = jf.gradient_flow(loss, network, jnp.array([0.0, 2.0]), rtol=1e-10)
    ratio = jf.imbalance(loss, flow.network) / jf.imbalance(loss, network)
    np.testing.assert_allclose(ratio, jnp.exp(-4 * 0.05 * 2.0), rtol=1e-7)


@pytest.mark.exhaustive
def test_half_the_loss_takes_twice_the_time(problem, network):
    whole = jf.gradient_flow(problem, network, jnp.array([0.0, 1.0]), rtol=1e-10)
    half = jf.gradient_flow(0.5 * problem, network, jnp.array([0.0, 2.0]), rtol=1e-10)
    np.testing.assert_allclose(half.network.product, whole.network.product, atol=1e-8)


def ill_conditioned(problem, scale):
    """With one input of this standard deviation."""
    units = jnp.array([scale, 1.0, 1.0, 1.0, 1.0])
    covariance = problem.covariance * units[:, None] * units[None]
    return eqx.tree_at(lambda loss: loss.covariance, problem, covariance)


# Inputs of standard deviation 100 make most flows stiff, which here end or are at rest.
@pytest.mark.parametrize(
    ("scale", "times"),
    [(1.0, (0.0, 3.0)), (100.0, (0.0, 0.01, 0.1, 1.0)), (100.0, (0.0, np.inf))],
)
def test_in_a_program_it_takes_the_same_way(problem, network, scale, times, monkeypatch):
    """As by itself, where the stiff solver is compiled for those that need it."""
    loss = ill_conditioned(problem, scale)
    stiff = importlib.import_module("jaxflow.dynamics.flow")._stiff
    calls = []
    watched = lambda *task: (calls.append(task), stiff(*task))[1]
    monkeypatch.setattr("jaxflow.dynamics.flow._stiff", watched)
    run = lambda network: jf.gradient_flow(
        loss, network, times, observe={"product": jf.observables.singular_values}
    )
    alone = run(network)
    assert len(calls) == (scale > 1)
    part = eqx.filter_jit(run)(network)
    assert (alone.status, alone.num_steps) == (part.status, part.num_steps)
    for one, other in zip(*map(jax.tree.leaves, (alone, part)), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-7, atol=1e-11)


def test_slopes_by_itself_are_those_in_a_program(problem):
    """Where it is stiff, so that slopes go back through both solvers."""
    loss = ill_conditioned(problem, 100.0)
    start = jf.init.gaussian((5, 2, 1), scale=0.3, key=jr.key(3))

    def final(scale):
        network = jax.tree.map(lambda w: scale * w, start)
        return jf.loss_value(loss, jf.gradient_flow(loss, network, (0.0, 3.0)).network)

    alone = jax.value_and_grad(final)(1.0)
    part = jax.jit(jax.value_and_grad(final))(1.0)
    np.testing.assert_allclose(alone, part, rtol=1e-9)


def test_forward_slopes_by_the_default_solver_are_the_reverse_ones(problem, network):
    def end(scale, adjoint):
        start = jax.tree.map(lambda w: scale * w, network)
        run = jf.gradient_flow(problem, start, (0.0, 0.5), adjoint=adjoint)
        return problem(run.network)

    ahead = ft.partial(end, adjoint=dfx.ForwardMode())
    slope = jax.grad(end)(1.0, dfx.RecursiveCheckpointAdjoint())
    np.testing.assert_allclose(jax.jvp(ahead, (1.0,), (1.0,))[1], slope, rtol=1e-9)


@pytest.mark.exhaustive
def test_implicit_solvers_agree(problem, network):
    times = jnp.array([0.0, 3.0])
    explicit = jf.gradient_flow(problem, network, times, rtol=1e-9)
    implicit = jf.gradient_flow(problem, network, times, solver=dfx.Kvaerno5(), rtol=1e-7)
    np.testing.assert_allclose(
        implicit.network.product, explicit.network.product, atol=1e-5
    )


def test_end_of_flow_has_the_derivative_of_the_loss_in_time(problem, network):
    """The loss falls at the rate of the squared gradient."""

    def final(end):
        times = jnp.stack([jnp.zeros(()), end])
        return problem(follow(problem, network, times).network)

    follow = ft.partial(jf.gradient_flow, rtol=1e-10, solver=dfx.Tsit5())
    end = jnp.asarray(1.5)
    there = follow(problem, network, jnp.array([0.0, 1.5])).network
    wanted = -(jf.observables.gradient_norm(problem, there) ** 2)
    np.testing.assert_allclose(jax.grad(final)(end), wanted, rtol=1e-6)


@pytest.mark.exhaustive
def test_final_sharpness_has_a_derivative_in_the_scale_of_the_start(problem, network):
    def final(scale):
        start = jax.tree.map(lambda w: scale * w, network)
        times = jnp.array([0.0, 4.0])
        flow = jf.gradient_flow(problem, start, times, rtol=1e-10, solver=dfx.Tsit5())
        return jf.sharpness(problem, flow.network)

    step = 1e-4
    final = eqx.filter_jit(final)
    numeric = (final(jnp.asarray(1 + step)) - final(jnp.asarray(1 - step))) / (2 * step)
    exact = eqx.filter_jit(jax.grad(final))(jnp.asarray(1.0))
    np.testing.assert_allclose(exact, numeric, rtol=1e-5)


def test_a_failure_is_marked_and_leaves_its_batch_alone(problem):
    """A hundred steps suffice for all but the flow that is far too long."""
    start = jf.init.gaussian((5, 5, 5, 1), scale=0.5, key=jr.key(7))
    run = lambda end: jf.gradient_flow(
        problem, start, jnp.stack([0 * end, end]), max_steps=100, throw=False
    )
    batch = eqx.filter_vmap(run)(jnp.array([1.0, 1000.0]))
    alone = run(jnp.asarray(1.0))
    assert batch.status.tolist()[1] == jf.Status.MAX_STEPS
    assert batch.ok.tolist() == [True, False]
    for many, one in zip(batch.network.weights, alone.network.weights, strict=True):
        np.testing.assert_allclose(many[0], one, rtol=1e-9)


def test_failing_alone_raises(problem, network):
    with pytest.raises(RuntimeError, match="maximum number of solver steps"):
        jf.gradient_flow(problem, network, jnp.array([0.0, 1000.0]), max_steps=100)


def test_progress_is_shown(problem, network, capfd):
    meter = dfx.TextProgressMeter(minimum_increase=0.25)
    flow = jf.gradient_flow(problem, network, jnp.array([0.0, 1.0]), progress_meter=meter)
    jax.block_until_ready(flow.network)
    jax.effects_barrier()
    assert "100.00%" in capfd.readouterr().out


def test_another_start_scale_or_time_does_not_compile_again(problem, network):
    # The trace count of an observable is the trace count of the run.
    traces = []

    def counted(loss, network):
        traces.append(1)
        return loss(network)

    for scale, end in ((1.0, 1.0), (0.5, 2.0), (2.0, 3.0)):
        start = jax.tree.map(lambda w, scale=scale: scale * w, network)
        jf.gradient_flow(problem, start, jnp.array([0.0, end]), observe={"loss": counted})
    assert len(traces) == 1


@pytest.mark.parametrize(
    ("times", "fact"),
    [
        ([0.0, 2.0, 1.0], "must increase strictly, but entry 2 is 1 after 2"),
        ([1.0, 1.0], "must increase strictly, but entry 1 is 1 after 1"),
        ([0.0], "a start and an end"),
        ([0.0, np.nan], "must be finite"),
    ],
)
def test_times_are_checked(problem, network, times, fact):
    with pytest.raises(ValueError, match=fact):
        jf.gradient_flow(problem, network, np.array(times))


def test_traced_times_are_checked_when_they_are_known(problem):
    """A single pair that does not increase is one too many; and traced runs must end."""
    start = jf.DeepLinear((jnp.zeros((1, 5)),))
    options = {"solver": dfx.Tsit5(), "rtol": 1e-3}
    end = lambda times: jf.gradient_flow(problem, start, times, **options).time[-1]
    end = eqx.filter_jit(end)
    assert end(jnp.array([0.0, 0.1, 0.2])) == 0.2
    for times in ([0.0, 0.2, 0.1], [0.1, 0.0, 0.2], [0.0, 0.1, np.inf]):
        with pytest.raises(RuntimeError, match="must increase strictly, and be finite"):
            end(jnp.array(times))


def test_tolerances_finer_than_rounding_are_refused(problem, network):
    with pytest.raises(ValueError, match="coarser than the rounding of float64"):
        jf.gradient_flow(problem, network, jnp.array([0.0, 1.0]), rtol=1e-15)
    single = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), (problem, network))
    with pytest.raises(ValueError, match="jax_enable_x64"):
        jf.gradient_flow(*single, jnp.array([0.0, 1.0]), rtol=1e-8)


def test_single_precision_runs_to_its_own_tolerance(problem, network):
    single = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), (problem, network))
    times = jnp.array([0.0, 2.0])
    flow = jf.gradient_flow(*single, times)
    wanted = jf.gradient_flow(problem, network, times).network
    assert flow.network.product.dtype == jnp.float32
    np.testing.assert_allclose(flow.network.product, wanted.product, atol=1e-3)


def test_mixed_precision_is_refused(problem, network):
    single = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), network)
    with pytest.raises(ValueError, match="one precision throughout"):
        jf.gradient_flow(problem, single, jnp.array([0.0, 1.0]))


def test_networks_that_do_not_fit_are_refused(problem):
    wide = jf.DeepLinear((jnp.ones((1, 4)),))
    with pytest.raises(
        ValueError, match=r"accept the data's 5 inputs, but has widths \(4, 1\)"
    ):
        jf.gradient_flow(problem, wide, jnp.array([0.0, 1.0]))
    with pytest.raises(TypeError, match="floating-point arrays"):
        jf.gradient_flow(problem, (jnp.arange(2),), jnp.array([0.0, 1.0]))


@pytest.mark.exhaustive
def test_forward_slopes_of_several_directions_are_those_of_one(problem, network):
    """`jax.jacfwd` batches slopes alone, and not what they are slopes of."""
    options = {"solver": dfx.Tsit5(), "adjoint": dfx.ForwardMode()}

    def end(scales):
        start = jax.tree.map(lambda w: scales[0] * w + scales[1], network)
        return problem(jf.gradient_flow(problem, start, (0.0, 0.5), **options).network)

    at = jnp.array([1.0, 0.1])
    slopes = jax.jacfwd(end)(at)
    one = lambda direction: jax.jvp(end, (at,), (direction,))[1]
    wanted = [one(direction) for direction in jnp.eye(2)]
    np.testing.assert_allclose(slopes, wanted, rtol=1e-10)


@pytest.mark.parametrize(
    "kind", [pytest.param(jf.MLP, marks=pytest.mark.exhaustive), jf.networks.ResidualMLP]
)
def test_nonlinear_networks_flow_where_small_steps_of_descent_go(kind):
    """Descent is behind by its step size, so that two sizes say where it tends to."""
    x = jr.normal(jr.key(0), (20, 3))
    loss = jf.MeanSquaredError(x, jnp.sin(x))
    start = kind(jf.init.gaussian((3, 3, 3), scale=0.5, key=jr.key(1)).weights, jnp.tanh)
    observe = {"sharpness": jf.sharpness, "alignment": jf.alignment}
    options = {"solver": dfx.Tsit5(), "observe": observe}
    flow = jf.gradient_flow(loss, start, (0.0, 0.4), **options)

    def descent(steps):
        options = {"step_size": 0.4 / steps, "every": steps, "observe": observe}
        return jf.gradient_descent(loss, start, steps, **options).observed

    coarse, fine = descent(200), descent(400)
    for name, found in flow.observed.items():
        wanted = 2 * fine[name][-1] - coarse[name][-1]
        np.testing.assert_allclose(found[-1], wanted, rtol=1e-4)
        assert np.max(np.abs(fine[name][-1] - found[-1])) > 1e-6
