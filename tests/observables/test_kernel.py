"""The tangent kernel: beside finite differences, the Hessian, and the flow of outputs."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import jaxflow as jf

DRAW = np.random.default_rng(0).normal
X, Y, LABELS = DRAW(size=(5, 3)), DRAW(size=(5, 2)), np.array([0, 1, 1, 0, 1])
NETWORK = jf.MLP(jf.init.gaussian((3, 4, 2), scale=0.7, key=jr.key(0)).weights, jnp.tanh)
FACTOR = jf.networks.SymmetricLinear(jnp.asarray(DRAW(size=(3, 2))))
ERROR = jf.MeanSquaredError(X, Y)
CASES = {
    "samples": (ERROR, NETWORK),
    "labels": (jf.CrossEntropy(X, LABELS), NETWORK),
    "noise": (jf.losses.SampledNoisyLoss(ERROR, 0.3, jr.key(1), draws=2), NETWORK),
    "measurements": (jf.losses.MatrixSensing(DRAW(size=(5, 3, 3)), Y[:, 0]), FACTOR),
    "moments": (jf.Regression.from_data(X, X), FACTOR),
}


@pytest.mark.parametrize(("loss", "network"), CASES.values(), ids=CASES)
def test_the_kernel_is_the_gram_matrix_of_finite_differences(loss, network):
    flat, unravel = ravel_pytree(network)
    outputs = jax.jit(lambda w: loss.outputs(unravel(w)).ravel())
    steps = 1e-5 * np.eye(flat.size)
    jacobian = np.array([(outputs(flat + s) - outputs(flat - s)) / 2e-5 for s in steps]).T
    # The error of the central difference is of order 1e-10.
    found = jf.observables.neural_tangent_kernel(loss, network)
    np.testing.assert_allclose(found, jacobian @ jacobian.T, rtol=1e-7, atol=1e-8)


def test_its_eigenvalues_are_those_of_the_gauss_newton_hessian():
    dense = jax.jit(lambda n: jf.hessian(ERROR, n, part="gauss_newton").as_matrix())(
        NETWORK
    )
    wanted = np.linalg.eigvalsh(dense)[::-1][:10]
    found = (
        2
        / 5
        * np.linalg.eigvalsh(jf.observables.neural_tangent_kernel(ERROR, NETWORK))[::-1]
    )
    np.testing.assert_allclose(found, wanted, rtol=1e-9, atol=1e-12)


def test_outputs_of_the_flow_move_by_the_kernel():
    loss = jf.CrossEntropy(X, LABELS)
    velocity = jax.jit(lambda n: jax.tree.map(jnp.negative, jax.grad(loss.excess)(n)))(
        NETWORK
    )
    outputs, moves = jax.jit(lambda v: jax.jvp(loss.outputs, (NETWORK,), (v,)))(velocity)
    push = jax.jit(jax.grad(loss.criterion))(outputs)
    wanted = -jf.observables.neural_tangent_kernel(loss, NETWORK) @ push.ravel()
    np.testing.assert_allclose(moves.ravel(), wanted, rtol=1e-11, atol=1e-14)


@pytest.mark.parametrize(("loss", "network"), list(CASES.values())[:2], ids=list(CASES)[:2])
def test_alignment_is_the_cosine_with_the_ideal_kernel(loss, network):
    kernel = np.asarray(jf.observables.neural_tangent_kernel(loss, network))
    y = (Y if loss is ERROR else np.eye(2)[LABELS] - 0.5).ravel()
    ideal = np.outer(y, y)
    wanted = np.sum(kernel * ideal) / np.linalg.norm(kernel) / np.linalg.norm(ideal)
    np.testing.assert_allclose(
        jf.observables.kernel_target_alignment(loss, network), wanted, rtol=1e-12
    )


def test_alignment_is_one_for_a_kernel_that_knows_the_targets_and_nothing_else():
    """A linear map of one input that explains its targets, whose kernel is x times x."""
    x = X[:, :1]
    loss, network = jf.MeanSquaredError(x, 3 * x), jf.DeepLinear((jnp.ones((1, 1)),))
    np.testing.assert_allclose(
        jf.observables.kernel_target_alignment(loss, network), 1, rtol=1e-14
    )
    across = x[::-1] - x * (x[::-1] * x).sum() / (x**2).sum()
    found = jf.observables.kernel_target_alignment(loss, network, targets=across)
    np.testing.assert_allclose(found, 0, atol=1e-14)


def test_targets_of_labels_are_where_a_network_that_returns_zeros_is_pushed():
    loss = jf.CrossEntropy(X, LABELS)
    push = -jax.grad(loss.criterion)(jnp.zeros((5, 2)))
    found = jf.observables.kernel_target_alignment(loss, NETWORK, targets=push)
    np.testing.assert_allclose(
        jf.observables.kernel_target_alignment(loss, NETWORK), found, rtol=1e-12
    )


def test_a_network_that_cannot_move_has_no_alignment():
    still = jax.tree.map(jnp.zeros_like, NETWORK)
    assert jf.observables.kernel_target_alignment(ERROR, still) == 0


def test_kernels_of_no_single_output_are_refused():
    for measure in (
        jf.observables.neural_tangent_kernel,
        jf.observables.kernel_target_alignment,
    ):
        with pytest.raises(ValueError, match=r"`Sum` are a tree.*`terms`"):
            measure(ERROR + jf.WeightDecay(0.1), NETWORK)
    with pytest.raises(ValueError, match="`Regression` does not hold"):
        jf.observables.kernel_target_alignment(*CASES["moments"])
    with pytest.raises(ValueError, match=r"\(5, 2\), but has \(5,\)"):
        jf.observables.kernel_target_alignment(ERROR, NETWORK, targets=Y[:, 0])
