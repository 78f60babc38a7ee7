"""Direct minimization of flatness: it meets the exact theory, from above."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import jaxflow as jf
from jaxflow.papers import mulayoff_michaeli_2020 as theory

STARTS = 4


def problems():
    """Square, rectangular, indefinite, rank-deficient, degenerate, white and not."""
    draw = np.random.default_rng(0).normal
    for seed in range(3):
        x = draw(size=(9, 3)) * np.array([2.0, 1.0, 0.4])
        covariance = np.eye(3) if seed == 0 else x.T @ x / 9
        yield f"square {seed}", (3, 3, 3, 3), draw(size=(3, 3)), covariance
        yield f"one output {seed}", (3, 3, 3, 1), draw(size=(1, 3)), covariance
        yield f"few outputs {seed}", (3, 2, 2, 2), draw(size=(2, 3)), covariance
        low = draw(size=(3, 1)) @ draw(size=(1, 3))
        yield f"rank one {seed}", (3, 3, 3, 3), low, covariance
        yield f"two layers {seed}", (3, 3, 3), draw(size=(3, 3)), covariance
    yield "many outputs", (2, 3, 3, 3), draw(size=(3, 2)), np.diag([2.0, 0.5])
    yield "indefinite", (3, 3, 3, 3), np.diag([1.0, -2.0, 0.5]), np.eye(3)
    yield "all singular values equal", (3, 3, 3, 3), 2 * np.eye(3), np.eye(3)
    yield "all but one opposite", (3, 3, 3, 3), -np.eye(3), np.eye(3)
    yield "narrow", (3, 1, 2, 3), low, np.diag([3.0, 1.0, 0.2])


PROBLEMS = {name: rest for name, *rest in problems()}


def test_there_are_twenty_problems():
    assert len(PROBLEMS) == 20


CASES = [
    pytest.param(*problem, id=name, marks=[pytest.mark.exhaustive] * name.endswith("2"))
    for name, problem in PROBLEMS.items()
]


@pytest.mark.parametrize(("widths", "target", "covariance"), CASES)
def test_the_flattest_minimum_found_is_that_of_theory(widths, target, covariance):
    """From every start, to 1e-6 from above, and to rounding from below."""
    problem = jf.Regression(jnp.asarray(target), jnp.asarray(covariance), jnp.zeros(()))
    draw = lambda key: jf.init.factorization(problem.target, widths, scale=0.5, key=key)
    starts = jax.vmap(draw)(jr.split(jr.key(0), STARTS))
    descend = lambda start: jf.papers.mulayoff_michaeli_2020.minimize_sharpness(
        problem, start, jf.observables.linear_gauss_newton_spectrum
    )
    ends = jax.vmap(descend)(starts)
    sharpness = jax.vmap(
        lambda n: jf.observables.linear_gauss_newton_spectrum(problem, n)[0]
    )
    least = theory.flattest_sharpness(problem, len(widths) - 1)
    assert np.min(sharpness(starts)) > 1.001 * least
    ratios = np.asarray(sharpness(ends) / least)
    assert np.all(ratios > 1 - 1e-12)
    assert np.all(ratios < 1 + 1e-6)
    products = jax.vmap(lambda n: n.product)(ends)
    np.testing.assert_allclose(products - problem.target[None], 0, atol=1e-11)


def test_other_measures_have_their_own_flattest_minimum():
    """The trace, whose least value is known, and is not that of the flattest minimum."""
    widths, target, covariance = PROBLEMS["square 1"]
    problem = jf.Regression(jnp.asarray(target), jnp.asarray(covariance), jnp.zeros(()))
    trace = lambda loss, network: jnp.sum(
        jf.observables.linear_gauss_newton_spectrum(loss, network)
    )
    start = jf.init.factorization(problem.target, widths, scale=0.5, key=jr.key(0))
    end = jf.papers.mulayoff_michaeli_2020.minimize_sharpness(problem, start, trace)
    least = theory.least_trace(problem, 3)
    np.testing.assert_allclose(trace(problem, end), least, rtol=1e-6)
    assert trace(problem, end) >= least * (1 - 1e-12)
    flattest = theory.flattest_sharpness(problem, 3)
    assert jf.observables.linear_gauss_newton_spectrum(problem, end)[0] > 1.001 * flattest


def test_one_layer_and_no_target_have_nothing_to_choose(problem):
    start = jf.init.gaussian((5, 1), scale=1.0, key=jr.key(0))
    end = jf.papers.mulayoff_michaeli_2020.minimize_sharpness(
        problem, start, jf.observables.linear_gauss_newton_spectrum
    )
    np.testing.assert_array_equal(end.product, problem.target)
    nothing = jf.Regression(jnp.zeros((3, 3)), jnp.eye(3), jnp.zeros(()))
    start = jf.init.gaussian((3, 3, 3), scale=1.0, key=jr.key(0))
    end = jf.papers.mulayoff_michaeli_2020.minimize_sharpness(
        nothing, start, jf.observables.linear_gauss_newton_spectrum
    )
    assert jf.observables.linear_gauss_newton_spectrum(nothing, end)[0] == 0


def test_networks_that_cannot_reach_the_target_are_refused():
    problem = jf.Regression(jnp.eye(3), jnp.eye(3), jnp.zeros(()))
    narrow = jf.init.gaussian((3, 2, 3), scale=1.0, key=jr.key(0))
    with pytest.raises(ValueError, match=r"rank of the target, 3.*no minimizer"):
        jf.papers.mulayoff_michaeli_2020.minimize_sharpness(
            problem, narrow, jf.observables.linear_gauss_newton_spectrum
        )
    other = jf.init.gaussian((4, 4, 3), scale=1.0, key=jr.key(0))
    with pytest.raises(ValueError, match="3 inputs"):
        jf.papers.mulayoff_michaeli_2020.minimize_sharpness(
            problem, other, jf.observables.linear_gauss_newton_spectrum
        )
