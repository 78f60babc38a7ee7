"""Singular structure of layers, and how signals pass through them.

Of nonlinear networks it is that of their weights; that of the layers' Jacobians at an
input is the same of `network.linearized(x)`. Of layers that are no matrices, such as
convolutions, only the latter is known. Of a module of the user's own, the layers are its
matrices in the order of its leaves, each of which must fit the one before; what lies
between them nobody knows, so for Jacobians see "Bring your own network" in the docs.
"""

import itertools as it

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, PyTree, Scalar, ScalarLike

from .. import _checks
from .._adapters import Loss
from .._linalg import decompositions
from .._linalg.norms import norm, peak_of, unit
from .._linalg.precision import full_precision
from ..losses import AbstractLoss
from ..losses.regression import needs_linear
from ..networks import AbstractDense, AbstractLayered, DeepLinear


@full_precision
def alignment(
    loss: Loss,
    network: PyTree,
    *,
    rank: int = 1,
    tolerance: ScalarLike | None = None,
) -> Float[Array, " pairs"]:
    r"""How well the top singular vectors of neighboring layers agree, from 0 to 1.

    For `rank` 1 it is $|\langle u_k, v_{k+1} \rangle|$, with $u_k$ the top left singular
    vector of layer $k$ and $v_{k+1}$ the top right one of the next. For more,
    $\|U_k^\top V_{k+1}\|_F / \sqrt r$ of the top $r$: where singular values are repeated,
    single vectors are arbitrary and only the spaces that they span mean something. For
    what random spaces have, see `random_alignment`.

    It can be zero at the flattest minima of linear networks, whose layers agree along one
    path, not always the top one; for that, see `path_coupling`.

    Args:
        rank: The number $r$ of singular vectors.
        tolerance: Also those whose singular value is this close, relatively, to the last
            of them: each layer then has its own $r$, and the norm is over the root of
            the smaller one of the pair.

    Raises:
        ValueError: If a layer has fewer than `rank` singular vectors, or `tolerance` is
            not between 0 and 1; if the network is not a chain of matrices.
    """
    del loss
    factors = _top("alignment", network, rank, tolerance)
    overlaps = [
        jnp.linalg.norm(left.T @ right.T) / jnp.sqrt(jnp.minimum(first, then))
        for (left, first, _), (_, then, right) in it.pairwise(factors)
    ]
    return jnp.array(overlaps, factors[0][0].dtype)


def random_alignment(
    loss: Loss,
    network: PyTree,
    *,
    rank: int = 1,
    tolerance: ScalarLike | None = None,
) -> Float[Array, " pairs"]:
    r"""The root mean square of `alignment` if layers were turned at random.

    $\sqrt{r / d}$ between $d$ neurons, with the larger $r$ where a pair has two.
    Arguments and errors are those of `alignment`.
    """
    del loss
    factors = _top("random_alignment", network, rank, tolerance)
    larger = [
        jnp.sqrt(jnp.maximum(first, then) / left.shape[0])
        for (left, first, _), (_, then, _) in it.pairwise(factors)
    ]
    return jnp.array(larger, factors[0][0].dtype)


def _top(name, network, rank, tolerance):
    """The top singular vectors of each layer, others zero, and their number between."""
    matrices = _matrices(name, network)
    thinnest = min(min(w.shape) for w in matrices)
    rank = _checks.whole(f"{name}(rank=...)", rank, 1, thinnest)
    if tolerance is not None:
        limit = _checks.Must("be between 0 and 1", lambda x: (x >= 0) & (x <= 1))
        tolerance = _checks.real(
            f"{name}(tolerance=...)", tolerance, limit, dtype=matrices[0].dtype
        )

    def one(weight):
        left, values, right = decompositions.svd(weight, full_matrices=False)
        counted = jnp.arange(values.size) < rank
        if tolerance is not None:
            least = values[rank - 1] * (1 - tolerance)
            counted |= values >= least
        keep = counted.astype(values.dtype)
        return left * keep[None], jnp.sum(keep), right * keep[:, None]

    return [one(w) for w in matrices]


@full_precision
def path_coupling(
    loss: AbstractLoss, network: DeepLinear, *, signal: ArrayLike | None = None
) -> Float[Array, " layers"]:
    r"""How nearly a signal passes along singular vectors of every layer, from 0 to 1.

    The cosines of $W_k^\top h_k$ and $h_{k-1}$ for $h_k = W_k h_{k-1}$. All are 1 if and
    only if every layer has the directions of $h_{k-1}$ and $h_k$ as a pair of singular
    vectors: the left one of each layer is then the right one of the next, which need not
    be the top one. So it is at the flattest minima of linear networks, along the dedicated
    path (Mulayoff & Michaeli, 2020), except in the first layer if data are not white.
    Zero from where a layer wipes the signal out.

    Args:
        signal: The input $h_0$. Defaults to the top right singular vector of the
            end-to-end matrix.
    """
    del loss
    matrices = _matrices("path_coupling", network)
    states = _states("path_coupling", network, signal)
    cosines = []
    for w, before, after in zip(matrices, states, states[1:], strict=False):
        back = w.T @ after
        back, before = (unit(h / peak_of(h)) for h in (back, before))
        cosines.append(jnp.abs(back @ before))
    return jnp.stack(cosines)


@full_precision
def imbalance(loss: Loss, network: PyTree) -> Float[Array, " pairs"]:
    r"""The norms $\|W_{k+1}^\top W_{k+1} - W_k W_k^\top\|_F$, which the flow conserves.

    Zero for balanced layers. Drift along a flow is a certificate of its accuracy; descent
    breaks the law by $O(\eta^2)$ a step, and weight decay $\gamma$ shrinks it as
    $e^{-4 \gamma t}$.
    """
    del loss
    matrices = _matrices("imbalance", network)
    gaps = [norm(b.T @ b - a @ a.T) for a, b in it.pairwise(matrices)]
    return jnp.array(gaps, matrices[0].dtype)


@full_precision
def determinant(loss: AbstractLoss, network: DeepLinear) -> Scalar:
    r"""The determinant of the end-to-end matrix, whose sign a balanced flow conserves.

    Along a gradient flow from balanced square layers, say the identity, $\log |\det W|$
    changes at a bounded rate, so that $\det W$ never reaches zero (Bartlett, Helmbold &
    Long, 2018, for the identity). Where its sign changes, rounding has chosen the limit:
    it has broken the balance, and the flow has left a saddle that it would not leave.

    Raises:
        ValueError: If the end-to-end matrix is not square.
    """
    del loss
    needs_linear("determinant", network)
    if network.widths[0] != network.widths[-1]:
        raise ValueError(
            "`determinant` needs as many outputs as inputs, but the network has widths "
            f"{network.widths}."
        )
    return decompositions.det(network.product)


@full_precision
def singular_values(loss: Loss, network: PyTree) -> Float[Array, "layers rank"]:
    """The singular values of each layer, largest first, filled up with `nan`."""
    del loss
    return _singular_values("singular_values", network, jnp.nan)


def _singular_values(name, network, filling):
    matrices = _matrices(name, network)
    values = [decompositions.svdvals(w) for w in matrices]
    rank = max(v.size for v in values)
    pad = lambda v: jnp.pad(v, (0, rank - v.size), constant_values=filling)
    return jnp.stack([pad(v) for v in values])


@full_precision
def stable_rank(loss: Loss, network: PyTree) -> Float[Array, " layers"]:
    r"""The ratio $\|W_k\|_F^2 / \|W_k\|_2^2$: 1 for rank one; 0 for a layer of zeros."""
    del loss
    values = _singular_values("stable_rank", network, 0)
    top = values[:, :1]
    return jnp.sum((values / jnp.where(top > 0, top, 1)) ** 2, axis=1)


@full_precision
def rank_one_gap(loss: Loss, network: PyTree) -> Float[Array, " layers"]:
    r"""The difference $\|W_k\|_F^2 - \|W_k\|_2^2$: 0 for rank one."""
    del loss
    values = _singular_values("rank_one_gap", network, 0)
    return jnp.sum(values[:, 1:] ** 2, axis=1)


@full_precision
def gains(
    loss: Loss, network: PyTree, *, signal: ArrayLike | None = None
) -> Float[Array, " layers"]:
    r"""How much each layer amplifies a signal that passes through the network.

    $\|h_k\| / \|h_{k-1}\|$ for the states $h_k$ behind the layers. Their product is the
    gain from end to end. A signal that a layer wipes out has gain 0 from there on.

    Args:
        signal: The input $h_0$. Defaults to the top right singular vector of the
            end-to-end matrix, the signal that is amplified most, if the network is linear.

    Raises:
        ValueError: If the network is not linear, and there is no signal.
    """
    del loss
    states = _states("gains", network, signal)
    sizes = jnp.stack([norm(h) for h in states])
    return sizes[1:] / jnp.where(sizes[:-1] > 0, sizes[:-1], 1)


def _matrices(name, network):
    """The weights of each layer, if they are a matrix."""
    _checks.weights(name, network)
    if isinstance(network, AbstractDense):
        return network.weights
    leaves = jax.tree.leaves(eqx.filter(network, eqx.is_inexact_array))
    layers = [leaf for leaf in leaves if leaf.ndim > 1]  # Others shift or scale.
    fit = all(a.shape[0] == b.shape[-1] for a, b in it.pairwise(layers))
    if not layers or any(w.ndim > 2 for w in layers) or not fit:
        raise ValueError(
            f"`{name}` is of a chain of layers with a weight matrix each, of shape "
            f"(outputs, inputs), but the arrays of this `{type(network).__name__}` have "
            f"shapes {[w.shape for w in leaves]}. Pass the chain that is meant, as a tuple "
            "of matrices; or ask for that of the Jacobians at an input `x`, of "
            "`network.linearized(x)`, if the network has one."
        )
    return layers


def _states(name, network, signal):
    """What each layer is given, and the output."""
    _checks.weights(name, network)
    if not isinstance(network, AbstractLayered):
        raise ValueError(
            f"`{name}` is known of layered networks, such as `jaxflow.MLP`, but not of "
            f"{_checks.brief(network)}."
        )
    if signal is None:
        if not isinstance(network, DeepLinear):
            raise ValueError(
                f"`{name}` of a `{type(network).__name__}` needs a `signal`: none is known "
                "that it amplifies most. For small signals around an input `x`, ask for "
                "that of `network.linearized(x)`."
            )
        signal = decompositions.svd(network.product, full_matrices=False)[2][0]
    dtype = jax.tree.leaves(network)[0].dtype
    start = _checks.real(
        f"{name}(signal=...)", signal, _checks.REAL, dtype=dtype, ndim=None
    )
    if start.shape != network.widths[:1]:
        raise ValueError(
            f"`{name}(signal=...)` must have the network's {network.widths[0]} inputs, but "
            f"has shape {start.shape}."
        )
    layers = range(network.depth)
    return list(it.accumulate(layers, lambda h, k: network.layer(k, h), initial=start))
