"""Gradient descent and its relatives: exactness, verdicts, derivatives, errors."""

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest

import jaxflow as jf
from jaxflow.papers import marion_chizat_2024 as theory

WATCH = {
    "loss": jf.loss_value,
    "distance": jf.observables.distance,
    "sharpness": jf.sharpness,
}


@pytest.mark.parametrize("number", [0, 1])
def test_descent_agrees_with_the_independent_implementation(reference, number):
    case = reference["gradient_descent_reference_data"][number]
    data = reference["reference_datasets"]["jax0.4.27_threefry_partitionable_False"][
        "linear"
    ]
    problem = jf.Regression.from_data(np.array(data["X"]), np.array(data["y"]))
    start = jf.DeepLinear(tuple(jnp.atleast_2d(jnp.array(w)) for w in case["W0"]))
    steps = [s for s in case["step"] if s <= 450]  # Beyond, rounding has its own way.
    run = jf.gradient_descent(
        problem, start, 450, step_size=case["lr"], every=steps[1:], observe=WATCH
    )
    known = len(steps)
    np.testing.assert_allclose(run.observed["loss"], case["loss"][:known], rtol=1e-10)
    squares = run.observed["distance"] ** 2
    np.testing.assert_allclose(squares, case["dist_sq"][:known], rtol=1e-10, atol=1e-20)
    np.testing.assert_allclose(
        run.observed["sharpness"], case["lam_max"][:known], rtol=1e-10
    )


def python_loop(loss, network, transform, steps):
    """The same descent, one step at a time."""
    state = transform.init(network)
    slope = jax.jit(jax.grad(loss))
    for _ in range(steps):
        updates, state = transform.update(slope(network), state, network)
        network = optax.apply_updates(network, updates)
    return network


momentum = eqx.Partial(optax.sgd, momentum=0.9)


@pytest.mark.parametrize(
    ("optimizer", "transform"),
    [
        (optax.sgd, optax.sgd(0.02)),
        (momentum, optax.sgd(0.02, momentum=0.9)),
        (optax.adam, optax.adam(0.02)),
        (optax.adam(0.02), optax.adam(0.02)),
    ],
)
def test_any_optimizer_takes_the_steps_of_a_python_loop(
    problem, network, optimizer, transform
):
    size = None if isinstance(optimizer, optax.GradientTransformation) else 0.02
    with jax.numpy_dtype_promotion("standard"):  # Optax mixes counts and numbers.
        run = jf.gradient_descent(
            problem, network, 20, step_size=size, every=10, optimizer=optimizer
        )
        wanted = python_loop(problem, network, transform, 20)
    np.testing.assert_allclose(run.network.product, wanted.product, rtol=1e-9)


def halving(count):
    return 0.02 * 0.5 ** (count // 10)


def test_observables_see_the_state_of_the_optimizer(problem, network):
    """The sharpness in Adam's metric, against a loop that keeps the state by hand."""

    def metric(loss, network, state):
        return jf.sharpness(
            loss, network, preconditioner=jf.observables.preconditioner(state)
        )

    adam, steps = optax.adam(0.02), 6
    watch = {"adam": jf.dynamics.with_state(metric), "plain": jf.sharpness}
    with jax.numpy_dtype_promotion("standard"):
        run = jf.gradient_descent(
            problem, network, steps, optimizer=adam, every=2, observe=watch
        )
        state, wanted = adam.init(network), []
        for k in range(1, steps + 1):
            slope = jax.grad(problem.excess)(network)
            update, state = adam.update(slope, state, network)
            network = optax.apply_updates(network, update)
            if k % 2 == 0:
                size = jf.observables.preconditioner(state)
                root = jnp.sqrt(jnp.concatenate([p.ravel() for p in size.weights]))
                hessian = jf.hessian(problem, network).as_matrix()
                wanted.append(jnp.linalg.eigvalsh(hessian / jnp.outer(root, root))[-1])
    assert jnp.isnan(run.observed["adam"][0])
    assert jnp.isfinite(run.observed["plain"][0])
    np.testing.assert_allclose(run.observed["adam"][1:], wanted, rtol=1e-8)


def test_only_descent_has_an_optimizer_to_observe(problem, network):
    watch = {"state": jf.dynamics.with_state(lambda loss, network, state: jnp.zeros(()))}
    with pytest.raises(ValueError, match="only `gradient_descent` has"):
        jf.gradient_flow(problem, network, (0.0, 1.0), observe=watch)


def test_schedules_set_the_step_size_and_the_time(problem, network):
    with jax.numpy_dtype_promotion("standard"):
        run = jf.gradient_descent(problem, network, 20, step_size=halving, every=10)
        wanted = python_loop(problem, network, optax.sgd(halving), 20)
    np.testing.assert_allclose(run.network.product, wanted.product, rtol=1e-9)
    np.testing.assert_allclose(run.time, [0, 0.2, 0.3], rtol=1e-12)


@pytest.mark.exhaustive
def test_descent_tends_to_the_flow_at_first_order(problem, network):
    limit = jf.gradient_flow(problem, network, jnp.array([0.0, 1.0]), rtol=1e-11).network
    counts = np.array([400, 800, 1600])
    ends = [
        jf.gradient_descent(problem, network, int(n), step_size=1 / n, every=int(n))
        for n in counts
    ]
    errors = [float(jnp.linalg.norm(e.network.product - limit.product)) for e in ends]
    order = -np.polyfit(np.log(counts), np.log(errors), 1)[0]
    assert abs(order - 1) < 0.05


def test_records_at_chosen_steps_are_those_of_every_step(problem, network):
    every = jf.gradient_descent(problem, network, 20, step_size=0.02)
    chosen = jf.gradient_descent(problem, network, 20, step_size=0.02, every=[1, 5, 20])
    picked = every.observed["loss"][jnp.array([0, 1, 5, 20])]
    np.testing.assert_allclose(chosen.observed["loss"], picked, rtol=1e-13)
    np.testing.assert_allclose(chosen.time, [0, 0.02, 0.1, 0.4], rtol=1e-13)
    assert chosen.num_steps == every.num_steps == 20
    assert chosen.record_steps.tolist() == [0, 1, 5, 20]


class TestVerdicts:
    """Every way to end, on one problem whose critical step size is known."""

    def end(self, problem, factor, start=None, steps=4000):
        start = theory.balanced_minimizer(problem, 3) if start is None else start
        critical = theory.critical_step_size(problem, 3)
        return jf.gradient_descent(
            problem, start, steps, step_size=factor * critical, every=steps // 10
        )

    def off(self, problem):
        minimum = theory.flattest_minimizer(problem, 3)
        return jax.tree.map(lambda w: w + 0.01, minimum)

    def test_converged(self, problem):
        assert self.end(problem, 0.5, self.off(problem)).status == jf.Status.CONVERGED

    def test_moving(self, problem, network):
        assert self.end(problem, 0.01, network, 10).status == jf.Status.UNCONVERGED

    def test_oscillating_just_above_the_critical_step_size(self, problem):
        run = self.end(problem, 1.05, self.off(problem))
        assert run.status == jf.Status.OSCILLATING
        assert run.ok

    def test_diverged(self, problem):
        run = self.end(problem, 20.0, self.off(problem))
        assert run.status == jf.Status.DIVERGED
        assert not run.ok
        assert jnp.all(jnp.isnan(run.observed["loss"][1:]))

    def test_collapsed(self, problem):
        """Weight decay above what the data can hold up."""
        loss = problem + jf.WeightDecay(5.0)
        start = theory.balanced_minimizer(problem, 3)
        run = jf.gradient_descent(loss, start, 400, step_size=0.02, every=40)
        assert run.status == jf.Status.COLLAPSED

    def test_plateau_before_the_escape_is_not_collapse(self, problem):
        start = jf.init.gaussian((5, 5, 5, 1), scale=1e-3, key=jr.key(0))
        assert self.end(problem, 0.1, start, 10).status == jf.Status.UNCONVERGED


def test_a_diverged_member_leaves_its_batch_alone(problem, network):
    run = lambda size: jf.gradient_descent(problem, network, 200, step_size=size, every=20)
    batch = eqx.filter_vmap(run)(jnp.array([0.02, 10.0, 0.01]))
    assert batch.status[1] == jf.Status.DIVERGED
    for k, size in ((0, 0.02), (2, 0.01)):
        alone = run(jnp.asarray(size))
        np.testing.assert_allclose(
            batch.observed["loss"][k], alone.observed["loss"], rtol=1e-10
        )


def test_a_diverged_run_stops(problem, network):
    run = jf.gradient_descent(problem, network, 10_000, step_size=10.0, every=100)
    assert run.num_steps == 100
    assert jnp.isinf(run.time[2:-1]).all()
    assert run.record_steps.tolist() == [0, 100, *[-1] * 98, 100]


def small(loss, network):
    return loss.excess(network) < 1e-3


def test_until_stops_descent_and_the_last_record_is_the_end(problem, network):
    run = jf.gradient_descent(problem, network, 2000, step_size=0.02, every=10, until=small)
    assert run.num_steps < 2000
    np.testing.assert_allclose(run.time[-1], 0.02 * int(run.num_steps), rtol=1e-10)
    excess = run.observed["loss"][-1] - problem.floor
    assert excess < 1e-3
    assert jnp.isnan(run.observed["loss"][run.num_steps // 10 + 1 : -1]).all()


@pytest.fixture(scope="module")
def samples():
    x = jr.normal(jr.key(4), (12, 5))
    return jf.MeanSquaredError(x, jr.normal(jr.key(5), (12, 1)))


def test_an_epoch_of_mini_batches_sees_every_sample_once(samples, network):
    """At a step size of next to nothing an epoch is one step of the whole."""
    tiny = 1e-7
    few = jf.gradient_descent(
        samples, network, 3, step_size=tiny, every=3, batch_size=4, key=jr.key(0)
    )
    one = jf.gradient_descent(samples, network, 1, step_size=3 * tiny)
    moved = lambda run: run.network.weights[0] - network.weights[0]
    np.testing.assert_allclose(moved(few), moved(one), rtol=1e-4, atol=1e-12)


def test_epochs_are_shuffled_by_key(samples, network):
    ends = [
        jf.gradient_descent(
            samples, network, 6, step_size=0.02, every=6, batch_size=4, key=jr.key(k)
        ).network.product
        for k in (0, 0, 1)
    ]
    np.testing.assert_array_equal(ends[0], ends[1])
    assert jnp.max(jnp.abs(ends[0] - ends[2])) > 1e-6


@pytest.mark.parametrize("batch_size", [1, 3, 5])
def test_every_epoch_has_an_order_of_its_own(batch_size):
    """Each sample is of one weight, so that a step shows which samples it saw."""
    count, epochs = 12, 6
    loss = jf.MeanSquaredError(jnp.eye(count), jnp.ones(count))
    start = jf.DeepLinear((jnp.zeros((1, count)),))
    steps = epochs * (count // batch_size)
    run = jf.gradient_descent(
        loss,
        start,
        steps,
        step_size=0.01,
        batch_size=batch_size,
        key=jr.key(0),
        observe={"weights": lambda loss, network: network.product[0]},
    )
    moved = np.diff(run.observed["weights"], axis=0) > 0
    assert (moved.sum(axis=1) == batch_size).all()
    epochs = moved.reshape(epochs, -1, count)
    assert (epochs.sum(axis=1) <= 1).all()  # In an epoch no sample comes twice.
    orders = {epoch.tobytes() for epoch in epochs}
    assert len(orders) == len(epochs)


def test_the_whole_as_a_mini_batch_is_full_batch(samples, network):
    options = {"step_size": 0.02, "every": 6}
    whole = jf.gradient_descent(samples, network, 6, **options)
    batches = jf.gradient_descent(
        samples, network, 6, batch_size=12, key=jr.key(0), **options
    )
    np.testing.assert_allclose(batches.network.product, whole.network.product, rtol=1e-10)


def test_final_loss_has_derivatives_in_step_size_data_and_start(network):
    x, y = jr.normal(jr.key(4), (12, 5)), jr.normal(jr.key(5), (12, 1))

    def final(size, shift, scale):
        problem = jf.Regression.from_data(x, y + shift)
        start = jax.tree.map(lambda w: scale * w, network)
        run = jf.gradient_descent(problem, start, 40, step_size=size, every=10)
        return problem(run.network)

    point = (jnp.asarray(0.03), jnp.asarray(0.1), jnp.asarray(1.2))
    slopes = jax.jit(jax.grad(final, argnums=(0, 1, 2)))(*point)
    final = jax.jit(final)
    for k, slope in enumerate(slopes):
        step = 1e-5
        above, below = (
            final(*(p + sign * step * (i == k) for i, p in enumerate(point)))
            for sign in (1, -1)
        )
        np.testing.assert_allclose(slope, (above - below) / (2 * step), rtol=1e-5)


def test_final_sharpness_has_a_derivative_in_the_scale_of_the_start(problem, network):
    def final(scale):
        start = jax.tree.map(lambda w: scale * w, network)
        run = jf.gradient_descent(problem, start, 60, step_size=0.03, every=20)
        return jf.sharpness(problem, run.network)

    step = 1e-5
    slope = jax.grad(final)(jnp.asarray(1.1))
    numeric = (final(jnp.asarray(1.1 + step)) - final(jnp.asarray(1.1 - step))) / (2 * step)
    np.testing.assert_allclose(slope, numeric, rtol=1e-5)


def test_another_step_size_start_or_seed_does_not_compile_again(samples, network):
    traces = []

    def counted(loss, network):
        traces.append(1)
        return loss(network)

    for size, scale, seed in ((0.01, 1.0, 0), (0.02, 0.5, 1), (0.03, 2.0, 2)):
        jf.gradient_descent(
            samples,
            jax.tree.map(lambda w, scale=scale: scale * w, network),
            20,
            step_size=size,
            every=10,
            batch_size=4,
            key=jr.key(seed),
            observe={"loss": counted},
        )
    assert len(traces) == 1


def test_progress_is_shown(problem, network, capfd):
    meter = dfx.TextProgressMeter(minimum_increase=0.25)
    run = jf.gradient_descent(
        problem, network, 40, step_size=0.01, every=10, progress_meter=meter
    )
    jax.block_until_ready(run.network)
    jax.effects_barrier()
    assert "100.00%" in capfd.readouterr().out


def test_network_of_any_kind_descends():
    """A loss of samples takes whatever maps an input to an output."""
    x = jr.normal(jr.key(0), (20, 2))
    loss = jf.MeanSquaredError(x, jnp.sin(x[:, :1]))
    network = eqx.nn.Linear(2, 1, key=jr.key(1))
    run = jf.gradient_descent(
        loss, network, 100, step_size=0.1, every=100, observe={"s": jf.sharpness}
    )
    assert run.status == jf.Status.CONVERGED
    dense = np.linalg.eigvalsh(jf.hessian(loss, network).as_matrix())
    np.testing.assert_allclose(run.observed["s"], dense[-1], rtol=1e-9)


@pytest.mark.parametrize(
    ("options", "fact"),
    [
        ({"step_size": -0.1}, "step_size=...\\)` must be positive, but is -0.1"),
        ({"step_size": np.nan}, "step_size=...\\)` must be positive, but is nan"),
        ({}, "needs either a `step_size`"),
        ({"step_size": 0.1, "optimizer": optax.sgd(0.1)}, "needs either a `step_size`"),
        ({"step_size": 0.1, "every": 3}, "must divide `steps`, but is 3 for 10"),
        ({"step_size": 0.1, "every": 0}, "must be positive, but is 0"),
        ({"step_size": 0.1, "every": [5, 2, 10]}, "must be positive, increase, and end"),
        ({"step_size": 0.1, "every": [5]}, "must be positive, increase, and end"),
        ({"step_size": 0.1, "batch_size": 4}, "needs a loss that holds samples"),
    ],
)
def test_options_are_checked(problem, network, options, fact):
    with pytest.raises(ValueError, match=fact):
        jf.gradient_descent(problem, network, 10, **options)


def test_mini_batches_are_checked(samples, network):
    with pytest.raises(ValueError, match="between 1 and 12, but is 13"):
        jf.gradient_descent(samples, network, 10, step_size=0.1, batch_size=13)
    with pytest.raises(ValueError, match="needs a `key`"):
        jf.gradient_descent(samples, network, 10, step_size=0.1, batch_size=4)
    with pytest.raises(ValueError, match="must be positive, but is 0"):
        jf.gradient_descent(samples, network, 0, step_size=0.1)


def test_a_known_step_size_can_be_an_array_inside_a_transformation(problem, network):
    step_size = jnp.asarray(0.01)
    run = lambda network: jf.gradient_descent(problem, network, 3, step_size=step_size)
    found = jax.jit(lambda network: run(network).observed["loss"])(network)
    np.testing.assert_allclose(found, run(network).observed["loss"], rtol=1e-12)


def test_steps_that_gather_gradients_are_one_step(problem, network):
    """Of all samples, for which the mean of two gradients at one place is one of them."""
    gathered = optax.MultiSteps(optax.sgd(0.05), 2)
    with jax.numpy_dtype_promotion("standard"):  # Optax (0.2) mixes precisions here.
        slow = jf.gradient_descent(problem, network, 4, optimizer=gathered, every=4)
    plain = jf.gradient_descent(problem, network, 2, step_size=0.05, every=2)
    np.testing.assert_allclose(
        slow.observed["loss"][-1], plain.observed["loss"][-1], rtol=1e-6
    )
