r"""The edge of stability: what drives descent there, and how it oscillates.

Oscillations are of plain gradient descent, seen from an iterate and the two that follow.
"""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, PyTree, Scalar, ScalarLike
from optax.tree_utils import tree_vdot

from .. import _checks
from .._adapters import Loss, combine_module, of_modules
from .._linalg.norms import peak_of, tree_norm, unit
from ..losses import AbstractLoss
from .curvature import sharpness, spectrum


@of_modules
def sharpening_rate(loss: AbstractLoss, network: PyTree[Array]) -> Scalar:
    r"""The rate $-\langle \nabla S, \nabla \mathcal{L} \rangle$ at which the flow sharpens.

    In sharpness $S$ per unit of training time. Where it is positive, descent is on its way
    to the edge of stability ("progressive sharpening", Cohen et al., 2021), or held there.
    Without derivatives, see `sharpness`.
    """
    rate, size = _climb(loss, network)
    return rate * size


@of_modules
def oscillation_variance(
    loss: AbstractLoss,
    network: PyTree[Array],
    *,
    step_size: ScalarLike,
    directions: int | None = None,
) -> Float[Array, "..."]:
    r"""The squared distance of the next iterate from the center of the oscillation.

    $\|\theta_1 - \bar\theta\|^2$ with $\bar\theta = (\theta_0 + 2 \theta_1 + \theta_2)/4$,
    from which two-step cycles and constant drifts have vanished. A central flow predicts it
    by the sum of `Edge.modes`.

    Args:
        step_size: The step size of the descent.
        directions: The squares along as many top eigenvectors of the Hessian at the center
            instead, largest eigenvalue first; constants, to derivatives.
    """
    step_size = _step("oscillation_variance", step_size, network)
    if directions is not None:
        most = sum(w.size for w in jax.tree.leaves(network))
        directions = _checks.whole(
            "oscillation_variance(directions=...)", directions, 1, most
        )
    (_, second, _), middle = _three(loss, network, step_size)
    move = jax.tree.map(jnp.subtract, second, middle)
    if directions is None:
        return _dot(move, move)
    vectors = spectrum(loss, middle, largest=directions).vectors
    return jax.vmap(lambda v: _dot(v, move) ** 2)(vectors)


@of_modules
def predicted_oscillation_variance(loss: AbstractLoss, network: PyTree[Array]) -> Scalar:
    r"""The mean square of an oscillation that would keep the sharpness from rising.

    $\sigma^2 = 2 \max(0, -\langle \nabla S, \nabla \mathcal{L} \rangle) / \|\nabla
    S\|^2$, of an oscillation along the top eigenvector alone (Damian, Nichani & Lee, 2023,
    in the form of the central flow). It is for the center: `time_averaged` takes it there.
    Without derivatives, see `sharpness`.
    """
    rate, size = _climb(loss, network)
    return 2 * jnp.maximum(rate, 0) / jnp.where(size > 0, size, 1)


def _climb(loss, network):
    """How fast the flow climbs along the sharpness's slope, and the size of that slope."""
    slope, rise = jax.grad(loss.excess)(network), jax.grad(sharpness, 1)(loss, network)
    size = tree_norm(rise)
    way = jax.tree.map(lambda r: r / jnp.where(size > 0, size, 1), rise)
    return -_dot(slope, way), size


@of_modules
def step_cosine(
    loss: AbstractLoss, network: PyTree[Array], *, step_size: ScalarLike
) -> Scalar:
    r"""The cosine between the next two steps of descent: 1 if straight on, -1 if back.

    A cycle of two steps has -1. Zero where there is no step.
    """
    step_size = _step("step_cosine", step_size, network)
    (first, second, third), _ = _three(loss, network, step_size)
    there = jax.tree.map(jnp.subtract, second, first)
    back = jax.tree.map(jnp.subtract, third, second)
    first, then = (ravel_pytree(move)[0] for move in (there, back))
    first, then = (unit(move / peak_of(move)) for move in (first, then))
    return first @ then


class time_averaged(eqx.Module):
    r"""An observable of the center of the oscillation, see `oscillation_variance`.

    The sharpness of iterates jumps with every step; that of their center,
    `time_averaged(jf.sharpness, step_size=0.1)`, is what stays near $2 / \eta$.

    Args:
        observable: The observable.
        step_size: The step size of the descent.
    """

    observable: Callable[..., PyTree[Array]]
    step_size: ScalarLike

    def __init__(self, observable: Callable[..., PyTree[Array]], *, step_size: ScalarLike):
        _checks.function("time_averaged(observable)", observable, "a loss and a network")
        _checks.real("time_averaged(step_size=...)", step_size, _checks.POSITIVE)
        self.observable, self.step_size = observable, step_size

    def __call__(self, loss: Loss, network: PyTree) -> PyTree[Array]:
        return _time_averaged(loss, network, self.observable, self.step_size)


@of_modules
def _time_averaged(loss, network, observable, step_size):
    return observable(*combine_module(loss, _three(loss, network, step_size)[1]))


def _step(name, step_size, network):
    dtype = jax.tree.leaves(network)[0].dtype
    name = f"{name}(step_size=...)"
    return _checks.real(name, step_size, _checks.POSITIVE, dtype=dtype)


def _three(loss, network, step_size):
    """Three iterates, and their center."""

    def step(network):
        move = lambda w, g: w - jnp.asarray(step_size, w.dtype) * g
        return jax.tree.map(move, network, jax.grad(loss.excess)(network))

    second = step(network)
    third = step(second)
    middle = jax.tree.map(lambda a, b, c: (a + 2 * b + c) / 4, network, second, third)
    return (network, second, third), middle


def _dot(a: PyTree[Array], b: PyTree[Array]) -> Scalar:
    return tree_vdot(a, b)  # pyright: ignore
