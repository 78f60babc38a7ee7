"""Profiles and volumes around solutions, beside closed forms."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import norm

import jaxflow as jf

KEY = jr.key(0)


def test_local_energy_of_one_pattern_is_that_of_a_normal_field():
    """The field h of a perceptron becomes normal with mean h and deviation r."""
    network = jf.init.committee(1, 30, unit=None, key=KEY)
    patterns = jf.committee.random_patterns(1, 30, key=jr.key(1))
    field = float(patterns.margins(network)[0])
    radii = np.array([0.1, 0.5, 2.0])
    found = jf.committee.local_energy(patterns, network, radius=radii, samples=20_000)
    wrong = norm.sf(field / radii)
    error = np.sqrt(wrong * (1 - wrong) / 20_000) + 1e-4
    assert np.all(abs(found - (wrong - (field <= 0))) < 4 * error)


def test_local_energy_has_no_scale_for_signs():
    loss = jf.committee.random_patterns(50, 15, key=KEY)
    network = jf.init.committee(3, 15, key=jr.key(1))
    larger = jax.tree.map(lambda w: 7 * w, network)
    found = [jf.committee.local_energy(loss, n, radius=0.3) for n in (network, larger)]
    assert float(found[0]) == float(found[1]) != 0
    assert float(jf.committee.local_energy(loss, network, radius=0.0)) == pytest.approx(0)


def test_local_energy_of_other_losses_is_their_rise():
    problem = jf.Regression.from_moments(np.eye(3), np.ones(3), 3.0)
    network = jf.init.balanced(problem.target, 1)
    found = jf.committee.local_energy(problem, network, radius=0.5, samples=50_000)
    # Every weight is one, and so are all deviations.
    assert float(found) == pytest.approx(3 * 0.25, rel=0.02)


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_what_is_not_finite_is_not_flat(wrong):
    loss = jf.committee.random_patterns(10, 6, key=KEY)
    network = jf.init.committee(3, 6, key=KEY)
    broken = jax.tree.map(lambda w: w.at[0, 0].set(wrong), network)
    assert np.all(
        np.isnan(jf.committee.local_energy(loss, broken, radius=np.array([0.1, 0.5])))
    )
    found = jf.committee.local_entropy(
        loss, broken, distance=0.2, walkers=8, stages=2, sweeps=1
    )
    assert not bool(found.reliable)
    assert not bool(jf.committee.zero_training_error(loss, broken))


@pytest.mark.exhaustive  # Another integral, of more weights than the arc below.
def test_local_entropy_of_one_pattern_is_an_integral():
    """The field along a random direction on a sphere has a known density."""
    n = 12
    network = jf.init.committee(1, n, unit=None, key=KEY)
    loss = jf.committee.random_patterns(1, n, key=jr.key(3))
    loss = jf.committee.Classification(loss.x, jnp.sign(loss.y * loss.margins(network)))
    w = np.asarray(network.weights[0]) / n**0.5
    x = np.asarray(loss.y[0] * loss.x[0])
    along, across = x @ w, np.linalg.norm(x - (x @ w) * w)
    distances = np.array([0.1, 0.3, 0.5])
    options = {"walkers": 4000, "stages": 10, "sweeps": 3}
    found = jf.committee.local_entropy(loss, network, distance=distances, **options)
    for distance, entropy in zip(distances, found.entropy, strict=True):
        overlap = 1 - 2 * distance
        density = lambda t: (1 - t**2) ** ((n - 4) / 2)
        edge = -overlap * along / ((1 - overlap**2) ** 0.5 * across)
        share = quad(density, max(edge, -1), 1)[0] / quad(density, -1, 1)[0]
        # Half of 4,000 walkers survive: a relative error of 2% in the share.
        assert float(entropy) == pytest.approx(np.log(share) / n, abs=0.06 / n)
    assert np.all(found.reliable)


def test_local_entropy_of_three_weights_is_an_arc():
    """A unit of three inputs moves on a circle, whose points can be counted."""
    network = jf.committee.Committee(jnp.array([[1.0, 1.0, 1.0]]), unit=None)
    x = jnp.array([[1.0, 0.2, 0.1], [0.1, 1.0, -0.2], [0.3, -0.4, 1.0], [1.0, 1.0, -0.9]])
    loss = jf.committee.Classification(x, jnp.ones(4))
    e, f = np.array([1, -1, 0]) / 2**0.5, np.array([1, 1, -2]) / 6**0.5
    angles = np.linspace(0, 2 * np.pi, 100_000)[:, None]
    overlap = 1 - 2 * 0.3
    circle = np.cos(angles) * e + np.sin(angles) * f
    points = overlap * np.ones(3) + (3 * (1 - overlap**2)) ** 0.5 * circle
    share = np.mean(np.all(points @ np.asarray(x).T > 0, axis=1))
    assert 0.02 < share < 0.5
    found = jf.committee.local_entropy(loss, network, distance=0.3, walkers=4000, stages=10)
    assert float(found.entropy) == pytest.approx(np.log(share) / 3, abs=0.04)


def test_where_nothing_is_found_it_is_said():
    """Of contradicting patterns no weights are right."""
    x = jnp.ones((2, 6)).at[0].set(-1.0)
    network = jf.init.committee(3, 6, key=KEY)
    loss = jf.committee.Classification(x, jnp.ones(2))
    found = jf.committee.local_entropy(
        loss, network, distance=0.2, walkers=32, stages=4, sweeps=2
    )
    assert float(found.surviving) == 0
    assert not bool(found.reliable)
    assert float(found.entropy) == -np.inf


def test_any_network_of_one_output_has_a_profile_and_a_volume():
    loss = jf.committee.random_patterns(10, 6, key=KEY)
    network = jf.MLP(jf.init.gaussian((6, 5, 1), scale=0.6, key=KEY).weights, jnp.tanh)
    end = jf.gradient_descent(loss, network, 400, step_size=0.5, every=400).network
    profile = jf.committee.local_energy(loss, end, radius=jnp.array([0.1, 0.3, 1.0]))
    assert np.all(np.diff(profile) >= 0)
    assert 0.05 < profile[-1] < 0.5
    distances = np.array([0.05, 0.25])
    options = {"walkers": 800, "stages": 10, "sweeps": 3}
    found = jf.committee.local_entropy(loss, end, distance=distances, **options)
    weights = [np.asarray(w) for w in end.weights]
    size = sum(w.size for w in weights)
    for distance, entropy in zip(distances, found.entropy, strict=True):
        share = share_of_solutions(loss, weights, 1 - 2 * distance)
        assert 0.01 < share < 0.9
        # Relative errors of shares: of 20,000 draws, and of 800 walkers.
        error = 4 * np.sqrt((1 / share - 1) * (1 / 20_000 + 1 / 800)) + 0.05
        assert float(entropy) == pytest.approx(np.log(share) / size, abs=error / size)


def test_one_walker_on_one_step_finds_all_or_nothing():
    loss, network = (
        jf.committee.random_patterns(2, 6, key=KEY),
        jf.init.committee(3, 6, key=KEY),
    )
    once = {"walkers": 1, "stages": 1, "sweeps": 1}
    found = jf.committee.local_entropy(loss, network, distance=0.5, **once)
    assert float(found.surviving) in (0, 1)
    assert np.isfinite(found.entropy) == (found.surviving > 0)


def share_of_solutions(loss, weights, overlap):
    """Of weights drawn on the spheres, rows orthogonal to the given ones and as long."""
    rng, moved = np.random.default_rng(0), []
    for w in weights:
        u, square = rng.standard_normal((20_000, *w.shape)), np.sum(w**2, 1, keepdims=True)
        u -= w * np.sum(u * w, 2, keepdims=True) / square
        u *= np.sqrt(square / np.sum(u**2, 2, keepdims=True))
        moved.append(overlap * w + np.sqrt(1 - overlap**2) * u)
    outputs = np.tanh(np.einsum("dhi,pi->dph", moved[0], loss.x)) @ moved[1][:, 0, :, None]
    return np.mean(np.all(outputs[..., 0] * np.asarray(loss.y) > 0, axis=1))


@pytest.mark.parametrize(
    ("call", "fact"),
    [
        (
            lambda loss, n: jf.committee.local_energy(loss, n, radius=-1.0),
            "not be negative",
        ),
        (
            lambda loss, n: jf.committee.local_energy(loss, n, radius=1.0, samples=0),
            "must be positive",
        ),
        (lambda loss, n: jf.committee.local_entropy(loss, n, distance=0.7), "at most 1/2"),
        (
            lambda loss, n: jf.committee.local_entropy(loss, n, distance=0.1, walkers=0),
            "walkers=...\\)`",
        ),
        (
            lambda _, n: jf.committee.local_entropy(jf.WeightDecay(1.0), n, distance=0.1),
            "counted of",
        ),
    ],
)
def test_other_requests_are_refused(call, fact):
    with pytest.raises(ValueError, match=fact):
        call(jf.committee.random_patterns(5, 6, key=KEY), jf.init.committee(3, 6, key=KEY))
