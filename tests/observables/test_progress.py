"""How far training has come."""

import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import jaxflow as jf
from jaxflow.papers import marion_chizat_2024 as theory


def test_excess_and_gradient_vanish_at_a_minimum(problem):
    network = theory.flattest_minimizer(problem, 3)
    assert jf.observables.excess_loss(problem, network) < 1e-28
    assert jf.observables.gradient_norm(problem, network) < 1e-13
    assert jf.observables.distance(problem, network) < 1e-14


def test_value_is_floor_and_excess(problem, network):
    whole = problem.floor + jf.observables.excess_loss(problem, network)
    np.testing.assert_allclose(jf.loss_value(problem, network), whole, rtol=1e-14)


def test_gradient_norm_agrees_with_the_closed_form(problem, network):
    r"""$\|\nabla R\|^2 = g^\top K g$ with $K = \sum_k \|b_k\|^2 A_k^\top A_k$."""
    slope = 2 * problem.covariance @ (network.product - problem.target)[0]
    pairs = zip(network.from_input[:-1], network.to_output[1:], strict=True)
    kernel = sum(jnp.sum(b**2) * a.T @ a for a, b in pairs)
    np.testing.assert_allclose(
        jf.observables.gradient_norm(problem, network) ** 2,
        slope @ kernel @ slope,
        rtol=1e-12,
    )


def test_distance_sees_through_a_sum(problem, network):
    alone = jf.observables.distance(problem, network)
    assert jf.observables.distance(0.5 * problem + jf.WeightDecay(1.0), network) == alone


def test_distance_needs_one_target(network):
    samples = jf.MeanSquaredError(jr.normal(jr.key(0), (6, 5)), jnp.ones(6))
    with pytest.raises(ValueError, match="needs one `Regression` in the loss, but found 0"):
        jf.observables.distance(samples, network)
