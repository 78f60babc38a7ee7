"""Least-action learning beside plain numpy, and the optimizers of committees."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest

import jaxflow as jf

HIDDEN, INPUTS, SAMPLES = 3, 45, 22
ERRORS = {"errors": jf.committee.error_rate}


def epoch_in_numpy(network, loss, order, step_size):
    """One pass, in the words of the rule."""
    w = np.array(network.weights)
    hidden, n = w.shape
    for place in order:
        x, y = np.asarray(loss.x)[place].reshape(hidden, n), float(loss.y[place])
        fields = (w * x).sum(1) / n**0.5
        if network.vote == "product":
            if y * np.prod(np.sign(fields)) <= 0:
                k = np.argmin(np.abs(fields))
                w[k] -= step_size * np.sign(fields[k]) * x[k]
            continue
        right = int(np.sum(y * fields > 0))
        need = (hidden + 1) // 2 - right
        wrong = [k for k in range(hidden) if y * fields[k] <= 0]
        for k in sorted(wrong, key=lambda k: abs(fields[k]))[: max(need, 0)]:
            w[k] += step_size * y * x[k]
    return w


@pytest.mark.parametrize("vote", ["sum", "product"])
def test_an_epoch_is_that_of_the_rule_in_numpy(vote):
    loss = jf.committee.random_patterns(SAMPLES, INPUTS, key=jr.key(0))
    network = jf.init.committee(HIDDEN, INPUTS, vote=vote, key=jr.key(1))
    key = jr.key(2)
    run = jf.committee.least_action_learning(loss, network, 1, step_size=0.3, key=key)
    order, _ = jr.split(jr.fold_in(key, 0))
    order = np.asarray(jr.permutation(order, SAMPLES))
    wanted = epoch_in_numpy(network, loss, order, 0.3)
    assert not np.allclose(wanted, network.weights)
    np.testing.assert_allclose(run.network.weights, wanted, rtol=1e-12)


@eqx.filter_jit
@eqx.filter_vmap(in_axes=(0, None))
def learn(key, noise):
    data, start, order = jr.split(key, 3)
    loss = jf.committee.random_patterns(SAMPLES, INPUTS, key=data)
    network = jf.init.committee(HIDDEN, INPUTS, key=start)
    options = {"step_size": 0.03, "noise": noise, "key": order, "observe": ERRORS}
    run = jf.committee.least_action_learning(loss, network, 400, every=4, **options)
    return run, jf.committee.local_energy(loss, run.network, radius=0.3)


def test_it_stops_when_no_pattern_is_wrong_and_noise_makes_minima_flatter():
    keys = jr.split(jr.key(0), 8)
    (plain, steep), (noisy, flat) = (learn(keys, noise) for noise in (0.0, 0.3))
    for run in (plain, noisy):
        assert np.all(run.status == jf.Status.CONVERGED)
        errors = np.asarray(run.observed["errors"])
        assert np.all(errors[:, -1] == 0)
        assert np.all(run.record_steps[:, -1] == run.num_steps)
        # Epochs after the end are not recorded, those before it had errors.
        for member, steps in zip(errors, np.asarray(run.num_steps), strict=True):
            assert np.all(member[1 : steps // 4] > 0)
            assert np.all(np.isnan(member[steps // 4 + 1 : -1]))
    assert np.mean(flat) < 0.6 * np.mean(steep)


def test_a_run_that_does_not_solve_says_so():
    x = jnp.ones((2, INPUTS)).at[0].set(-1.0)
    impossible = jf.committee.Classification(x, jnp.ones(2))
    network = jf.init.committee(HIDDEN, INPUTS, key=jr.key(1))
    run = jf.committee.least_action_learning(
        impossible, network, 5, step_size=0.1, key=jr.key(2)
    )
    assert run.status == jf.Status.UNCONVERGED
    assert float(impossible.errors(run.network)) == 0.5
    broken = jax.tree.map(lambda w: w * jnp.nan, network)
    run = jf.committee.least_action_learning(
        impossible, broken, 5, step_size=0.1, key=jr.key(2)
    )
    assert run.status == jf.Status.DIVERGED


def test_noise_can_follow_a_schedule_of_epochs():
    loss = jf.committee.random_patterns(SAMPLES, INPUTS, key=jr.key(0))
    network = jf.init.committee(HIDDEN, INPUTS, key=jr.key(1))
    options = {"step_size": 0.03, "key": jr.key(2)}
    silent = lambda epochs: jnp.where(epochs < 3, 0.0, 1.0)
    quiet = jf.committee.least_action_learning(loss, network, 3, **options)
    scheduled = jf.committee.least_action_learning(
        loss, network, 3, noise=silent, **options
    )
    np.testing.assert_array_equal(quiet.network.weights, scheduled.network.weights)


def test_norms_are_kept_where_there_are_any():
    weights = jnp.array([[3.0, 4.0], [0.0, 0.0]])
    transform = optax.chain(optax.sgd(1.0), jf.committee.fixed_row_norms())
    slope = jnp.array([[3.0, -4.0], [1.0, 0.0]])
    update, _ = transform.update(slope, transform.init(weights), weights)
    np.testing.assert_allclose(weights + update, [[0.0, 5.0], [-1.0, 0.0]], atol=1e-15)


def test_entropy_sgd_without_noise_is_a_path_in_numpy():
    """On a quadratic, where the inner path is a linear recursion."""
    problem = jf.Regression.from_moments(np.diag([1.0, 3.0]), np.ones(2), 2.0)
    network = jf.DeepLinear((jnp.array([[2.0, -1.0]]),))
    options = {"scope": 0.5, "growth": 0.1, "inner_steps": 7, "inner_step_size": 0.05}
    optimizer = jf.committee.entropy_sgd(
        0.8, noise=0.0, memory=0.6, key=jr.key(0), **options
    )
    run = jf.gradient_descent(problem, network, 3, optimizer=optimizer)
    target = np.array([1.0, 1 / 3])
    outer, scope = np.array([2.0, -1.0]), 0.5
    for _ in range(3):
        place = mean = outer
        for _ in range(7):
            slope = 2 * np.array([1.0, 3.0]) * (place - target)
            place = place - 0.05 * (slope + scope * (place - outer))
            mean = 0.6 * mean + 0.4 * place
        outer, scope = outer + 0.8 * scope * (mean - outer), scope * 1.1
    np.testing.assert_allclose(run.network.weights[0][0], outer, rtol=1e-12)


@pytest.mark.parametrize(
    ("arguments", "fact"),
    [
        (
            {"step_size": 0.0},
            r"`entropy_sgd\(step_size=...\)` must be positive, but is 0.0",
        ),
        ({"scope": np.nan}, "scope=...\\)` must be positive, but is nan"),
        ({"growth": -1.0}, "growth=...\\)` must be above -1"),
        ({"inner_steps": 0}, "inner_steps=...\\)` must be positive, but is 0"),
        ({"inner_step_size": -0.1}, "inner_step_size=...\\)` must be positive"),
        ({"noise": -1.0}, "noise=...\\)` must be at least 0"),
        ({"memory": 1.0}, "memory=...\\)` must be at least 0 and less than 1"),
    ],
)
def test_paths_that_lead_nowhere_are_refused(arguments, fact):
    options = {"step_size": 0.8, "scope": 0.5, "inner_step_size": 0.05, **arguments}
    with pytest.raises(ValueError, match=fact):
        jf.committee.entropy_sgd(**options, key=jr.key(0))


def members(function):
    return eqx.filter_jit(eqx.filter_vmap(function, in_axes=(0, None, None, None)))


def test_cross_entropy_descents_solve_and_slow_schedules_end_flatter():
    batch, per, n = 11, 2, INPUTS // HIDDEN
    optimizer = lambda step: optax.chain(
        optax.sgd(step * n), jf.committee.fixed_row_norms()
    )

    @members
    def train(key, start, growth, step):
        data, begin, order = jr.split(key, 3)
        loss = jf.committee.random_patterns(SAMPLES, INPUTS, key=data)
        schedule = lambda count: start * jnp.power(1 + growth, jnp.floor(count / per))
        annealed = jf.losses.Scheduled(loss, gain=schedule, robustness=schedule)
        network = jf.init.committee(HIDDEN, INPUTS, key=begin)
        options = {
            "batch_size": batch,
            "key": order,
            "until": jf.committee.zero_training_error,
        }
        options |= {"every": per, "optimizer": optimizer(step)}
        end = jf.gradient_descent(annealed, network, 600 * per, **options).network
        return jf.committee.zero_training_error(loss, end), jf.committee.local_energy(
            loss, end, radius=0.5
        )

    keys = jr.split(jr.key(0), 8)
    fast, steep = train(keys, 1.0, 0.05, 1.0)
    slow, flat = train(keys, 0.5, 0.005, 0.3)
    assert np.mean(slow) >= np.mean(fast)
    ok = slow & fast
    assert np.sum(ok) >= 4
    assert np.mean(flat[ok]) < np.mean(steep[ok])


@pytest.mark.exhaustive
def test_rectified_units_need_slow_schedules_to_end_wide(replica_reference):
    """Sixteen units of 25 inputs; steps on a fifth of 240 patterns, on a tenth fast ones
    end at .09.
    """
    table = replica_reference["relu_tree_committee_K16_n25_alpha0.6_4seeds"]

    @members
    def train(key, start, growth, step):
        data, begin, order = jr.split(key, 3)
        loss = jf.committee.random_patterns(240, 400, key=data)
        schedule = lambda count: start * jnp.power(1 + growth, jnp.floor(count / 5))
        annealed = jf.losses.Scheduled(loss, robustness=schedule)
        options = {"unit": jax.nn.relu, "vote": "difference"}
        network = jf.init.committee(16, 400, key=begin, **options)
        options = {
            "batch_size": 48,
            "key": order,
            "until": jf.committee.zero_training_error,
            "every": 5,
        }
        options["optimizer"] = optax.chain(
            optax.sgd(step * 25), jf.committee.fixed_row_norms()
        )
        end = jf.gradient_descent(annealed, network, 5_000, **options).network
        return jf.committee.zero_training_error(loss, end), jf.committee.local_energy(
            loss, end, radius=0.2
        )

    keys = jr.split(jr.key(0), 4)
    for name, start, growth in (("slow", 0.5, 0.005), ("fast", 1.0, 0.05)):
        solved, energy = train(keys, start, growth, 0.1)
        assert np.sum(solved) >= 3
        [row] = [v for k, v in table.items() if k.startswith(f"relu_{name}")]
        found = np.mean(energy[solved])
        assert found == pytest.approx(row[table["eps"].index(0.2)], rel=0.4)


@pytest.mark.parametrize(
    ("arguments", "fact"),
    [
        ({"step_size": 0.0}, "step_size=...\\)` must be positive"),
        ({"noise": -1.0}, "noise=...\\)` must not be negative"),
        ({"epochs": 0}, "epochs=...\\)` must be positive, but is 0"),
        ({"every": 3}, "must divide"),
        ({"unit": jax.nn.relu, "vote": "sum"}, "a committee of signs"),
        ({"vote": "difference", "hidden": 4, "inputs": 48}, "a committee of signs"),
        ({"hidden": 5}, r"must see 45 inputs \(9 for each of 5"),
        ({"loss": jf.WeightDecay(1.0)}, "needs a `Classification` and a `Committee`"),
    ],
)
def test_other_requests_are_refused(arguments, fact):
    options = {"step_size": 0.1, "epochs": 4, "loss": None, **arguments}
    machine = {"hidden": HIDDEN, "inputs": INPUTS, "unit": jnp.sign, "vote": "sum"}
    machine = {k: options.pop(k, v) for k, v in machine.items()}
    network = jf.init.committee(**machine, key=jr.key(0))
    inputs = 50 if machine["hidden"] == 5 else machine["inputs"]
    loss = options.pop("loss") or jf.committee.random_patterns(8, inputs, key=jr.key(1))
    with pytest.raises(ValueError, match=fact):
        jf.committee.least_action_learning(
            loss, network, options.pop("epochs"), key=jr.key(2), **options
        )
