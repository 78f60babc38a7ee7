r"""The tangent kernel: how outputs on one sample move when those on another are pushed.

Along the gradient flow outputs obey $\dot f = -K\, \nabla \text{criterion}(f)$ with $K = J
J^\top$, for the Jacobian $J$ of the outputs in all weights (Jacot, Gabriel & Hongler,
2018). Neither the number of samples nor that of weights divides it.
"""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, PyTree, Scalar

from .. import _checks
from .._adapters import combine_module, of_modules
from .._compilation import program
from .._linalg.norms import peak_of
from ..losses import AbstractLoss, CrossEntropy


@of_modules
def neural_tangent_kernel(
    loss: AbstractLoss, network: PyTree[Array]
) -> Float[Array, "outputs outputs"]:
    r"""The Gram matrix $J J^\top$ of the loss's outputs, in all weights.

    Rows are `loss.outputs(network).ravel()`: samples one after the other, the outputs of
    each together. On `MeanSquaredError` its eigenvalues, times two over the number of
    samples, are those of the Gauss-Newton part of the Hessian. A `Regression` knows no
    samples: its outputs are the entries of the end-to-end matrix, those for unit inputs.

    It holds the Jacobian, which is the number of rows times that of weights. Of part of
    the samples it is the kernel of `loss.select(indices)`.

    Raises:
        ValueError: If the loss does not say what its outputs are, or is a sum.
    """
    return _kernel(loss, network)


@program
def _kernel(loss, network) -> Array:
    leaves = jax.tree.leaves(_jacobian(loss, network))
    return sum(j @ j.T for j in leaves)  # pyright: ignore


@of_modules
def kernel_target_alignment(
    loss: AbstractLoss, network: PyTree[Array], *, targets: ArrayLike | None = None
) -> Scalar:
    r"""How well the tangent kernel is made for the targets, from 0 to 1.

    $\langle K, y y^\top \rangle_F / (\|K\|_F \|y\|^2)$, the cosine between the kernel and
    the ideal one (Cristianini et al., 2001): 1 if it has rank one, along the targets. With
    several outputs $y$ holds those of all samples. Nothing is centered (Cortes, Mohri &
    Rostamizadeh, 2012, center the kernel). Zero if there is no kernel, or no target.

    Args:
        targets: The $y$, of the shape of the loss's outputs. By default those of the loss;
            for `CrossEntropy` one for the right class and zero for others, less the
            mean over classes, which is where a network that returns zeros is pushed.

    Raises:
        ValueError: As for `neural_tangent_kernel`; or if the loss has no targets and none
            are given, or they have another shape.
    """
    shape = _shape(loss, network)
    y = (
        _targets(combine_module(loss, network)[0], shape)
        if targets is None
        else _checks.numbers("kernel_target_alignment(targets=...)", targets)
    )
    if y.shape != shape:
        raise ValueError(
            "`kernel_target_alignment(targets=...)` must have the shape of the outputs, "
            f"{shape}, but has {y.shape}."
        )
    kernel = neural_tangent_kernel(loss, network)
    y = y.ravel().astype(kernel.dtype)
    kernel, y = kernel / peak_of(kernel), y / peak_of(y)
    size = jnp.linalg.norm(kernel) * jnp.sum(y**2)
    return y @ kernel @ y / jnp.where(size > 0, size, 1)


def _shape(loss, network):
    """The shape of the outputs, if they are one array."""
    outputs = jax.eval_shape(loss.outputs, network)
    if not isinstance(outputs, jax.ShapeDtypeStruct):
        raise ValueError(
            "The tangent kernel is of one array of outputs, but those of "
            f"`{type(loss).__name__}` are a tree. Of a sum ask for one of its `terms`."
        )
    return outputs.shape


def _jacobian(loss, network):
    """For each leaf a matrix, with a row for each output."""
    shape = _shape(loss, network)
    slopes = lambda loss: jax.jacrev(lambda n: loss.outputs(n).ravel())(network)
    one = lambda i: loss.select(i[None])
    alone = jax.eval_shape(lambda i: one(i).outputs(network), jnp.zeros((), int))
    # Where outputs belong to a sample each, backwards through that one alone.
    if loss.samples is not None and alone.shape == (1, *shape[1:]):
        jacobian = jax.vmap(lambda i: slopes(one(i)))(jnp.arange(loss.samples))
    else:
        jacobian = slopes(loss)
    return jax.tree.map(lambda j: j.reshape(math.prod(shape), -1), jacobian)


def _targets(loss, shape):
    if isinstance(loss, CrossEntropy):
        return jax.nn.one_hot(loss.labels, shape[1]) - 1 / shape[1]
    y = getattr(loss, "y", None)
    if y is None:
        raise ValueError(
            f"`kernel_target_alignment` needs targets, which a `{type(loss).__name__}` "
            "does not hold. Pass `targets`, or use a loss that holds samples."
        )
    return y
