r"""The space that the Hessian of a deep linear network with one output never leaves.

Let $A_k$ be the row that leads from layer $k$ to the output, and $q_k$ the column that the
gradient in the end-to-end row becomes behind layer $k$: the gradient in layer $k$ is
$A_k^\top q_{k-1}^\top$. A direction changes them by some $p_k$ and $r_k$, so the Hessian
returns $p_k^\top q_{k-1}^\top + A_k^\top r_{k-1}^\top$ in layer $k$, whatever it is given.
With unit vectors $a$ along $A_k$ and $b$ along $q_{k-1}$ this is $a y^\top + x b^\top$, and
with $x$ normal to $a$ these $x$ and $y$ are orthonormal coordinates: as many numbers as
neurons rather than weights. Elsewhere the Hessian is zero, and its trace is never negative,
so its largest eigenvalue is found here. Where there is no $a$ or no $b$, their coordinates
are others with eigenvalue zero.
"""

import itertools as it
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from .._batching import custom_batch
from .._fast import sharpness_lanes as batches
from .._linalg.lanczos import largest as _largest
from ..losses import AbstractLoss, Regression
from ..networks import DeepLinear

FLOAT, DOUBLE = jnp.dtype("float32"), jnp.dtype("float64")


class Place(NamedTuple):
    """All that the Hessian depends on, with one output."""

    weights: tuple[Array, ...]
    target: Array
    covariance: Array
    readout: Array


def find(loss: AbstractLoss, network: PyTree[Array]) -> Place | None:
    """The place, if this is a linear network with one output that meets its moments."""
    if type(loss) is not Regression or type(network) is not DeepLinear:
        return None
    outputs = jax.eval_shape(loss.linear_map, network)  # Raises if they do not fit.
    readout = jnp.ones(1, outputs.dtype) if loss.readout is None else loss.readout[0]
    place = Place(network.weights, loss.target[0], loss.covariance, readout)
    dtypes = {leaf.dtype for leaf in place.weights + place[1:]}
    one_output = outputs.shape[0] == 1
    return place if one_output and dtypes in ({FLOAT}, {DOUBLE}) else None


def size(place: Place) -> int:
    """The number of coordinates."""
    return sum(sum(w.shape) for w in place.weights)


def coordinates(place: Place):
    """The Hessian in these coordinates, the projection onto those that exist, and back.

    A vector holds $x$ and then $y$ of the first layer, those of the second, and so on.
    """
    weights, target, covariance, readout = place
    polar = lambda vectors: zip(*(batches.polar(v, 0) for v in vectors), strict=True)
    rows = list(it.accumulate(reversed(weights), jnp.matmul, initial=readout))[::-1]
    a, c = polar(rows[1:])
    error = 2 * covariance @ (rows[0] - target)
    b, h = polar(it.accumulate(weights[:-1], lambda q, w: w @ q, initial=error))
    ends = list(it.accumulate(n for w in weights for n in w.shape))[:-1]
    split = lambda v: (jnp.split(v, ends)[::2], jnp.split(v, ends)[1::2])
    join = lambda x, y: jnp.concatenate(
        [v for pair in zip(x, y, strict=True) for v in pair]
    )

    def project(v):
        x, y = split(v)
        x = [jnp.where(s > 0, u - m * (m @ u), 0) for u, m, s in zip(x, a, h, strict=True)]
        return join(x, [jnp.where(s > 0, u, 0) for u, s in zip(y, c, strict=True)])

    def apply(v):
        x, y = split(project(v))  # Else not symmetric.
        p = [jnp.zeros_like(readout)]
        for w, size, u in zip(weights[::-1], c[::-1], y[::-1], strict=True):
            p.append(p[-1] @ w + size * u)
        *p, last = p
        r = [2 * covariance @ last]
        for k, w in enumerate(weights[:-1]):
            r.append(w @ r[-1] + h[k] * (x[k] + a[k] * (y[k] @ b[k])))
        layers = list(zip(a, b, c, h, p[::-1], r, strict=True))
        return join(
            [h * (p - a * (a @ p)) for a, _, _, h, p, _ in layers],
            [c * r + h * (a @ p) * b for a, b, c, h, p, r in layers],
        )

    def embed(v):
        layers = zip(a, b, *split(v), strict=True)
        return DeepLinear(tuple(jnp.outer(a, y) + jnp.outer(x, b) for a, b, x, y in layers))

    return apply, project, embed


def _alone(
    place: Place, random: Array, rtol: Array, max_matvecs: Array
) -> tuple[Array, Array]:
    """The largest eigenvalue and the coordinates of its vector.

    Args:
        place: Of the network.
        random: Coordinates to start from.
        rtol: As for Lanczos.
        max_matvecs: As for Lanczos; of a batch, the largest counts.
    """
    apply, project, _ = coordinates(place)
    found = _largest(apply, project(random), 1, rtol, max_matvecs)
    return found.values[0], found.vectors[0]


def _together(size, moving, fixed):
    weights = eqx.combine(moving, fixed)[0].weights
    if max(n for w in weights for n in w.shape[-2:]) > batches.WIDEST:
        return jax.vmap(lambda one: _alone(*eqx.combine(one, fixed)))(moving)
    same = jax.tree.map(lambda x: jnp.broadcast_to(x, (size, *x.shape)), fixed)
    place, *rest = eqx.combine(moving, same)
    return batches.largest(*place, *rest)


largest = custom_batch(_alone, _together)
