"""Second order: the Hessian as an operator, and its extreme eigenvalues."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import lineax as lx
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Float, Int, PyTree, Scalar

from ..losses import AbstractLoss, Regression
from ..networks import DeepLinear


def hessian(loss: AbstractLoss, network: PyTree[Array]) -> lx.FunctionLinearOperator:
    """The Hessian of `loss` at `network`, as a symmetric operator on networks.

    `.mv(v)` is its product with a network of directions; `.as_matrix()` is dense, with
    the entries of the leaves in row-major order, one leaf after the other.
    """
    _, product = jax.linearize(jax.grad(loss.excess), network)
    return lx.FunctionLinearOperator(
        product, jax.eval_shape(lambda: network), lx.symmetric_tag
    )


class Spectrum(eqx.Module):
    r"""Extreme eigenpairs, largest first, with what is known of their error.

    Attributes:
        values: Rayleigh quotients.
        vectors: Networks of unit norm, stacked along a first axis.
        bounds: Residual norms $\\|H v - \\lambda v\\|$: an eigenvalue lies within this
            distance of each value. The error is of the order of its square over the gap
            to the next eigenvalue.
        matvecs: Products with the Hessian that it took.
        converged: Whether every bound met the tolerance.
    """

    values: Float[Array, " k"]
    vectors: PyTree[Array]
    bounds: Float[Array, " k"]
    matvecs: Int[Array, ""]
    converged: Bool[Array, ""]


def sharpness(
    loss: AbstractLoss,
    network: PyTree[Array],
    *,
    rtol: float | None = None,
    max_matvecs: int = 1000,
    seed: int = 0,
) -> Scalar:
    r"""The largest eigenvalue of the Hessian, with its sign.

    Descent with step size $\eta$ is unstable above $2 / \eta$. Not the eigenvalue of
    largest modulus, which power iteration finds: near saddles that one is often negative.
    For the error bound and the number of products, see `spectrum`.

    Differentiable once, in `loss` and `network`, by the Hellmann-Feynman theorem; nothing
    differentiates through the iteration. Where the top eigenvalue is repeated the result
    is one element of the subgradient, and second derivatives are wrong, because the
    eigenvector counts as a constant.

    Args:
        rtol: Stop when the residual is this small, relative to the largest modulus of an
            eigenvalue; the power $2/3$ of the rounding of the weights by default.
        max_matvecs: Products with the Hessian after which to stop anyway.
        seed: Where the iteration starts.
    """
    found = spectrum(loss, network, rtol=rtol, max_matvecs=max_matvecs, seed=seed)
    return found.values[0]


def spectrum(
    loss: AbstractLoss,
    network: PyTree[Array],
    *,
    largest: int = 1,
    smallest: int = 0,
    rtol: float | None = None,
    max_matvecs: int = 1000,
    seed: int = 0,
) -> Spectrum:
    """The largest and smallest eigenvalues of the Hessian, repeated ones included.

    By thick-restarted Lanczos with full orthogonalisation (Wu & Simon, 2000), which
    continues with a random direction where a Krylov space is exhausted: at minima of
    linear networks there are few distinct eigenvalues, and at the origin only one.

    Args:
        largest: How many from the top.
        smallest: How many from the bottom.
        rtol: As for `sharpness`.
        max_matvecs: Products with the Hessian, for each of the two ends, after which to
            stop anyway.
        seed: Where the iteration starts.

    Raises:
        ValueError: If more eigenvalues are asked for than there are, or none.
    """
    flat, _ = ravel_pytree(network)
    if min(largest, smallest) < 0 or not 1 <= largest + smallest <= flat.size:
        raise ValueError(
            f"`spectrum(largest={largest}, smallest={smallest})` must ask for between 1 "
            f"and {flat.size} eigenvalues, the number of weights."
        )
    if max_matvecs < 1:
        raise ValueError(
            f"`spectrum(max_matvecs=...)` must be positive, but is {max_matvecs}."
        )
    tolerance = float(jnp.finfo(flat.dtype).eps) ** (2 / 3) if rtol is None else rtol
    return _spectrum(loss, network, largest, smallest, tolerance, max_matvecs, seed)


@eqx.filter_jit
def _spectrum(loss, network, largest, smallest, rtol, max_matvecs, seed):
    flat, unravel = ravel_pytree(network)
    operator = hessian(*jax.lax.stop_gradient((loss, network)))
    apply = lambda v: ravel_pytree(operator.mv(unravel(v)))[0]
    start = jr.normal(jr.key(seed), flat.shape, flat.dtype)
    ends = []
    for sign, count in ((1, largest), (-1, smallest)):
        if count:
            towards = lambda v, sign=sign: sign * apply(v)
            values, vectors, bounds, used, met = _largest(
                towards, start, count, rtol, max_matvecs
            )
            ends.append((sign * values[::sign], vectors[::sign], bounds[::sign], used, met))
    values, vectors, bounds, used, met = zip(*ends, strict=True)
    vectors = jax.vmap(unravel)(jnp.concatenate(vectors))
    values = _differentiable(loss, network, jnp.concatenate(values), vectors)
    matvecs, converged = jnp.stack(used).sum(), jnp.stack(met).all()
    return Spectrum(values, vectors, jnp.concatenate(bounds), matvecs, converged)


@eqx.filter_custom_jvp
def _differentiable(loss, network, values, vectors):
    """Eigenvalues with the derivative of Rayleigh quotients at their frozen vectors."""
    del loss, network, vectors
    return values


@_differentiable.def_jvp
def _(primals, tangents):
    loss, network, values, vectors = primals

    def quotients(loss, network):
        images = jax.vmap(hessian(loss, network).mv)(vectors)
        pairs = zip(jax.tree.leaves(vectors), jax.tree.leaves(images), strict=True)
        return sum(jax.vmap(jnp.vdot)(v, image) for v, image in pairs)

    _, slopes = eqx.filter_jvp(quotients, (loss, network), tangents[:2])
    return values, slopes


def gauss_newton_spectrum(
    loss: Regression, network: DeepLinear
) -> Float[Array, " eigenvalues"]:
    r"""All eigenvalues that the Hessian can have at a minimum, exactly, largest first.

    At a minimum the nonzero eigenvalues of the Hessian are those of the small matrix
    $2 \sum_k B_k B_k^\top \otimes \Sigma^{1/2} A_k^\top A_k \Sigma^{1/2}$, with
    $A_k = W_{k-1} \cdots W_1$ and $B_k = P W_L \cdots W_{k+1}$. Elsewhere these are the
    eigenvalues of its Gauss-Newton part, the Hessian without the curvature of the network.

    Args:
        loss: The problem; neither a sum nor made of samples.
        network: Where, in principle at a minimum.
    """
    variances, axes = jnp.linalg.eigh(loss.covariance)
    root = axes * jnp.sqrt(jnp.maximum(variances, 0))[None]
    inner = [a @ root for a in network.from_input[:-1]]
    outer = network.to_output[1:]
    if loss.readout is not None:
        outer = [loss.readout @ b for b in outer]
    blocks = [jnp.kron(b @ b.T, a.T @ a) for a, b in zip(inner, outer, strict=True)]
    return 2 * jnp.linalg.eigvalsh(sum(blocks))[::-1]  # pyright: ignore


def _largest(
    apply: Callable[[Float[Array, " n"]], Float[Array, " n"]],
    start: Float[Array, " n"],
    count: int,
    rtol: float,
    max_matvecs: int,
):
    """The largest eigenpairs of a symmetric operator; bounds, products, and success.

    Every cycle adds `keep` directions to the `keep` best Ritz vectors of the one before.
    The operator seen from the basis is computed in full rather than assumed tridiagonal,
    and residuals from their definition, so a restart or a random direction needs no
    special case. Rows of zeros stand for directions that do not exist: before the first
    restart, or in a space that is full.
    """
    keep = max(count + 8, 12)
    eps = jnp.finfo(start.dtype).eps

    def orthonormal(v, basis):
        size = jnp.linalg.norm(v)
        v = v / jnp.where(size > 0, size, 1)
        for _ in range(2):  # Once leaves rounding; twice is enough (Kahan, Parlett).
            v = v - (basis @ v) @ basis
        size = jnp.linalg.norm(v)
        return jnp.where(size > jnp.sqrt(eps), v / jnp.where(size > 0, size, 1), 0)

    # A rotated start is as random as a fresh draw, and cheaper.
    fresh = lambda used: jnp.roll(start, used + 1)

    def extend(j, carry):
        basis, images, small, row, scale, used = carry
        image = apply(row)
        basis, images = basis.at[j].set(row), images.at[j].set(image)
        column = basis @ image
        small = small.at[j].set(column).at[:, j].set(column)
        scale = jnp.maximum(scale, jnp.linalg.norm(image))
        rest = image - column @ basis
        exhausted = jnp.linalg.norm(rest) <= 10 * eps * scale
        row = orthonormal(jnp.where(exhausted, fresh(used), rest), basis)
        return basis, images, small, row, scale, used + 1

    def cycle(state):
        *carry, before, _, confirming, _ = state
        carry = jax.lax.fori_loop(keep, 2 * keep, extend, tuple(carry))
        basis, images, small, _, scale, used = carry
        finite = jnp.isfinite(scale)
        small = jnp.where(finite, small, 0)
        below = 1 + 2 * jnp.max(jnp.sum(jnp.abs(small), axis=1))
        absent = ~jnp.any(basis != 0, axis=1)
        values, mixing = jnp.linalg.eigh(small - jnp.diag(jnp.where(absent, below, 0)))
        values, mixing = values[::-1][:keep], mixing[:, ::-1][:, :keep]
        ritz = mixing.T @ basis
        there = jnp.linalg.norm(ritz, axis=1) > 0.5
        ritz = jnp.where(there[:, None], ritz, 0)
        images = jnp.where(there[:, None], mixing.T @ images, 0)
        values = jnp.where(there, values, 0)
        wanted = values[:count]
        residuals = images[:count] - wanted[:, None] * ritz[:count]
        # With what rounding leaves of a product.
        bounds = jnp.linalg.norm(residuals, axis=1) + start.size**0.5 * eps * scale
        unmet = bounds > rtol * scale + start.size**0.5 * eps * scale
        met = ~jnp.any(unmet)
        # A repeated eigenvalue shows once in a Krylov space. When all is found, look once
        # more from a random direction, and stop when that changes nothing.
        same = jnp.all(jnp.abs(wanted - before) <= rtol * scale)
        done = (met & (same & confirming if count > 1 else True)) | ~finite
        towards = jnp.where(met, fresh(used), residuals[jnp.argmax(unmet)])
        row = orthonormal(towards, ritz)
        twice = lambda rows: jnp.concatenate([rows, jnp.zeros_like(rows)])
        small = jnp.diag(twice(values))
        images = twice(images)
        return twice(ritz), images, small, row, scale, used, wanted, bounds, met, done

    rows = jnp.zeros((2 * keep, start.size), start.dtype)
    small = jnp.zeros((2 * keep, 2 * keep), start.dtype)
    scale, used = jnp.zeros((), start.dtype), jnp.zeros((), jnp.int32)
    row = orthonormal(start, rows)
    no = jnp.zeros((), bool)
    before = jnp.zeros(count, start.dtype)
    state = (rows, rows, small, row, scale, used, before, before, no, no)
    going = lambda state: ~state[-1] & (state[5] < max_matvecs)
    state = jax.lax.while_loop(going, cycle, state)
    basis, _, _, _, scale, used, values, bounds, _, done = state
    values = jnp.where(jnp.isfinite(scale), values, jnp.nan)
    return values, basis[:count], bounds, used, done
