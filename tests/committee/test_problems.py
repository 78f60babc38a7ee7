"""Committees and two-class problems, beside plain numpy."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import jaxflow as jf

KEY = jr.key(0)
BROKEN = jf.committee.Committee(jnp.full((1, 4), jnp.nan), unit=None)


def numpy_output(network, x, gain=None):
    w = np.asarray(network.weights)
    hidden, n = w.shape
    inputs = x.reshape(len(x), hidden, n) if network.tree else x[:, None]
    fields = (inputs * w[None]).sum(-1) / n**0.5
    units = {
        None: lambda h: h,
        jnp.sign: np.sign if gain is None else lambda h: np.tanh(gain * h),
        jax.nn.relu: lambda h: np.maximum(h, 0),
    }
    votes = units[network.unit](fields)
    if network.vote == "product":
        return votes.prod(1)
    signs = np.ones(hidden)
    if network.vote == "difference":
        signs[hidden // 2 :] = -1
    return votes @ signs / hidden**0.5


NETWORKS = {
    "tree of signs": {"hidden": 3, "inputs": 12},
    "connected": {"hidden": 3, "inputs": 12, "tree": False},
    "parity": {"hidden": 4, "inputs": 12, "vote": "product"},
    "ReLU": {"hidden": 4, "inputs": 12, "unit": jax.nn.relu, "vote": "difference"},
    "perceptron": {"hidden": 1, "inputs": 12, "unit": None},
}


@pytest.mark.parametrize("name", NETWORKS)
def test_outputs_errors_and_cross_entropy_are_those_of_numpy(name):
    loss = jf.committee.random_patterns(40, 12, key=KEY)
    loss = jf.committee.Classification(loss.x, loss.y, robustness=1.7, gain=0.8)
    network = jf.init.committee(**NETWORKS[name], key=jr.key(1))
    x, y = np.asarray(loss.x), np.asarray(loss.y)
    norms = np.sum(np.asarray(network.weights) ** 2, axis=1)
    np.testing.assert_allclose(norms, network.weights.shape[1])
    sharp, smooth = numpy_output(network, x), numpy_output(network, x, gain=0.8)
    np.testing.assert_allclose(jax.vmap(network)(loss.x)[:, 0], sharp, atol=1e-12)
    assert float(loss.errors(network)) == pytest.approx(np.mean(y * sharp <= 0))
    wanted = np.mean(np.logaddexp(0, -2 * 1.7 * y * smooth)) / (2 * 1.7)
    assert float(loss(network)) == pytest.approx(wanted, rel=1e-12)


def test_the_cross_entropy_is_a_hinge_for_large_robustness_and_finite():
    x, y = jnp.array([[1.0], [-3.0]]), jnp.array([1.0, 1.0])
    network = jf.committee.Committee(jnp.ones((1, 1)), unit=None)
    hinge = jf.committee.Classification(x, y, robustness=1e6)(network)
    assert float(hinge) == pytest.approx(1.5, abs=1e-6)
    assert np.isfinite(
        jax.grad(jf.committee.Classification(1e4 * x, y))(network).weights
    ).all()


def test_what_is_not_a_number_is_wrong_and_solves_nothing():
    loss = jf.committee.random_patterns(10, 6, key=KEY)
    broken = jf.committee.Committee(jnp.full((3, 2), jnp.nan))
    assert float(loss.errors(broken)) == 1
    assert not bool(loss.solved(broken))


def test_a_pattern_on_the_boundary_is_wrong_and_nothing_is_solved():
    """One of two inputs is 0, where no sign is right."""
    x, network = (
        jnp.array([[1.0], [0.0]]),
        jf.committee.Committee(jnp.ones((1, 1)), unit=None),
    )
    loss = jf.committee.Classification(x, jnp.ones(2))
    assert loss.margins(network).tolist() == [1, 0]
    assert float(loss.errors(network)) == 0.5
    assert not bool(loss.solved(network))
    assert bool(loss.select(jnp.array([0])).solved(network))
    run = jf.gradient_descent(loss, network, 1, step_size=1e-3)
    assert run.status != jf.Status.CONVERGED


def test_teachers_make_no_mistake_on_their_own_patterns():
    teacher = jf.init.committee(3, 12, tree=False, key=KEY)
    loss = jf.committee.teacher_patterns(50, teacher, 12, key=jr.key(1))
    assert bool(loss.solved(teacher))
    assert 0.2 < float(jnp.mean(loss.y > 0)) < 0.8


def test_labels_that_are_not_known_are_nan_where_they_cannot_be_refused():
    draw = jax.jit(lambda teacher: jf.committee.teacher_patterns(5, teacher, 4, key=KEY))
    assert np.all(np.isnan(draw(BROKEN).y))


def test_mixtures_share_their_prototypes_and_flip_the_share_asked_for():
    draw = lambda key, flips: jf.committee.mixture_patterns(
        2000, 30, prototypes=2, flips=flips, data_key=KEY, key=key
    )
    clean = draw(jr.key(1), 0.0)
    corners, labels = np.unique(np.asarray(clean.x), axis=0, return_index=True)
    assert len(corners) == 4
    assert np.sum(np.asarray(clean.y)[labels]) == 0
    noisy = np.asarray(draw(jr.key(2), 0.2).x)
    changed = (noisy[:, None] != corners[None]).mean(-1).min(1)
    assert changed.mean() == pytest.approx(0.2, abs=0.01)


def test_a_loss_of_patterns_works_for_any_network_of_one_output():
    loss = jf.committee.random_patterns(30, 8, key=KEY)
    network = jf.MLP(jf.init.gaussian((8, 5, 1), scale=0.5, key=KEY).weights, jnp.tanh)
    end = jf.gradient_descent(loss, network, 500, step_size=1.0, every=500)
    assert float(loss.errors(end.network)) == 0
    assert end.status == jf.Status.CONVERGED
    assert float(jf.sharpness(loss, end.network)) > 0


@pytest.mark.parametrize(
    ("build", "fact"),
    [
        (lambda: jf.init.committee(4, 12, key=KEY), "odd number"),
        (lambda: jf.init.committee(3, 10, key=KEY), "multiple of `hidden`.*next is 12"),
        (lambda: jf.init.committee(3, 12, vote="difference", key=KEY), "even number"),
        (lambda: jf.init.committee(3, 12, vote="most", key=KEY), "but is 'most'"),
        (lambda: jf.init.committee(0, 12, key=KEY), "must be positive, but is 0"),
        (
            lambda: jf.committee.Classification(jnp.ones((2, 3)), jnp.array([0, 1])),
            "`2 \\* y - 1`",
        ),
        (
            lambda: jf.committee.Classification(jnp.ones((2, 3)), jnp.ones(3)),
            "one label each",
        ),
        (
            lambda: jf.committee.Classification(jnp.full((1, 3), jnp.inf), jnp.ones(1)),
            "must be finite",
        ),
        (
            lambda: jf.committee.Classification(
                jnp.ones((1, 3)), jnp.ones(1), robustness=0.0
            ),
            "robustness=...\\)` must be positive",
        ),
        (
            lambda: jf.committee.random_patterns(0, 3, key=KEY),
            "samples=...\\)` must be positive, but is 0",
        ),
        (
            lambda: jf.committee.mixture_patterns(3, 3, flips=1.5, data_key=KEY, key=KEY),
            "between 0 and 1",
        ),
        (
            lambda: jf.committee.mixture_patterns(
                3, 3, prototypes=0, data_key=KEY, key=KEY
            ),
            "prototypes=...\\)` must be positive, but is 0",
        ),
        (
            lambda: jf.committee.teacher_patterns(5, BROKEN, 4, key=KEY),
            "must return numbers, but returns `nan` for 5 of 5",
        ),
        (
            lambda: jf.committee.teacher_patterns(
                5, jf.init.gaussian((4, 2), scale=1.0, key=KEY), 4, key=KEY
            ),
            r"teacher=...\)` must return one output, .* returns \(2,\)",
        ),
        (
            lambda: jf.committee.random_patterns(5, 9, key=KEY)(
                jf.init.committee(3, 12, key=KEY)
            ),
            r"must see 12 inputs \(4 for each of 3 units\), but is given \(9,\)",
        ),
        (
            lambda: jf.committee.random_patterns(5, 4, key=KEY)(
                jf.init.gaussian((4, 2), scale=1.0, key=KEY)
            ),
            r"one output, whose sign is the class, but returns \(2,\)",
        ),
    ],
)
def test_impossible_machines_and_patterns_are_refused(build, fact):
    with pytest.raises(ValueError, match=fact):
        build()
