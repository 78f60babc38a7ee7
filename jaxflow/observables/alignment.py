"""Singular structure of the layers of a deep linear network."""

import itertools as it

import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, Scalar

from ..losses import AbstractLoss
from ..networks import DeepLinear


def alignment(
    loss: AbstractLoss, network: DeepLinear, *, rank: int = 1
) -> Float[Array, " pairs"]:
    r"""How well the top singular vectors of neighbouring layers agree, from 0 to 1.

    For `rank` 1 it is $|\langle u_k, v_{k+1} \rangle|$, with $u_k$ the top left singular
    vector of layer $k$ and $v_{k+1}$ the top right one of the next. For more,
    $\|U_k^\top V_{k+1}\|_F / \sqrt r$ of the top $r$: where singular values are repeated,
    single vectors are arbitrary and only the spaces that they span mean something. A
    random pair of spaces in dimension $d$ has about $\sqrt{r / d}$.

    Args:
        rank: The number $r$ of singular vectors.

    Raises:
        ValueError: If a layer has fewer than `rank` singular vectors.
    """
    del loss
    thinnest = min(network.widths)
    if not 1 <= rank <= thinnest:
        raise ValueError(
            f"`alignment(rank=...)` must be between 1 and the smallest width, {thinnest}, "
            f"but is {rank}."
        )
    factors = [jnp.linalg.svd(w, full_matrices=False) for w in network.weights]
    overlaps = [
        jnp.linalg.norm(left[:, :rank].T @ right[:rank].T)
        for (left, _, _), (_, _, right) in it.pairwise(factors)
    ]
    dtype = network.weights[0].dtype
    return jnp.array(overlaps, dtype) / rank**0.5


def imbalance(loss: AbstractLoss, network: DeepLinear) -> Float[Array, " pairs"]:
    r"""The norms $\|W_{k+1}^\top W_{k+1} - W_k W_k^\top\|_F$, which the flow conserves.

    Zero for balanced layers. Drift along a flow is a certificate of its accuracy; descent
    breaks the law by $O(\eta^2)$ a step, and weight decay $\gamma$ shrinks it as
    $e^{-4 \gamma t}$.
    """
    del loss
    pairs = it.pairwise(network.weights)
    gaps = [jnp.linalg.norm(b.T @ b - a @ a.T) for a, b in pairs]
    return jnp.array(gaps, network.weights[0].dtype)


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
    if network.widths[0] != network.widths[-1]:
        raise ValueError(
            "`determinant` needs as many outputs as inputs, but the network has widths "
            f"{network.widths}."
        )
    return jnp.linalg.det(network.product)


def singular_values(loss: AbstractLoss, network: DeepLinear) -> Float[Array, "layers rank"]:
    """The singular values of each layer, largest first, filled up with `nan`."""
    del loss
    values = [jnp.linalg.svd(w, compute_uv=False) for w in network.weights]
    rank = max(v.size for v in values)
    pad = lambda v: jnp.pad(v, (0, rank - v.size), constant_values=jnp.nan)
    return jnp.stack([pad(v) for v in values])


def stable_rank(loss: AbstractLoss, network: DeepLinear) -> Float[Array, " layers"]:
    r"""The ratio $\|W_k\|_F^2 / \|W_k\|_2^2$: 1 for rank one; 0 for a layer of zeros."""
    squares = singular_values(loss, network) ** 2
    top = squares[:, 0]
    return jnp.nansum(squares, axis=1) / jnp.where(top > 0, top, 1)


def rank_one_gap(loss: AbstractLoss, network: DeepLinear) -> Float[Array, " layers"]:
    r"""The difference $\|W_k\|_F^2 - \|W_k\|_2^2$: 0 for rank one."""
    return jnp.nansum(singular_values(loss, network)[:, 1:] ** 2, axis=1)


def gains(
    loss: AbstractLoss, network: DeepLinear, *, signal: ArrayLike | None = None
) -> Float[Array, " layers"]:
    r"""How much each layer amplifies a signal that passes through the network.

    $\|h_k\| / \|h_{k-1}\|$ for $h_k = W_k h_{k-1}$. Their product is the gain from end to
    end. A signal that a layer wipes out has gain 0 from there on.

    Args:
        signal: The input $h_0$. Defaults to the top right singular vector of the
            end-to-end matrix, the signal that is amplified most.
    """
    del loss
    if signal is None:
        signal = jnp.linalg.svd(network.product, full_matrices=False)[2][0]
    start = jnp.asarray(signal, network.weights[0].dtype)
    states = it.accumulate(network.weights, lambda h, w: w @ h, initial=start)
    sizes = jnp.stack([jnp.linalg.norm(h) for h in states])
    return sizes[1:] / jnp.where(sizes[:-1] > 0, sizes[:-1], 1)
