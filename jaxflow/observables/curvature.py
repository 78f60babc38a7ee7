"""Second order: the Hessian and its parts as operators, and extreme eigenvalues."""

from typing import Literal, get_args

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import lineax as lx
import numpy as np
from jax.core import Tracer
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Float, Int, PyTree, Scalar

from .. import _checks
from .._adapters import of_modules
from .._compilation import program
from .._linalg import decompositions
from .._linalg.lanczos import largest as _largest
from .._linalg.norms import tree_isfinite
from .._linalg.precision import full_precision
from .._linalg.varying import vary_like
from ..losses import AbstractLoss, Regression
from ..losses.regression import needs_linear, needs_regression
from ..networks import DeepLinear
from . import invariant

Part = Literal["hessian", "gauss_newton", "residual"]


@of_modules
def hessian(
    loss: AbstractLoss, network: PyTree[Array], *, part: Part = "hessian"
) -> lx.FunctionLinearOperator:
    r"""The Hessian of `loss` at `network`, as a symmetric operator on networks.

    `.mv(v)` is its product with a network of directions; `.as_matrix()` is dense, with
    the entries of the leaves in row-major order, one leaf after the other.

    Args:
        loss: Any loss; for the parts, one that says what its outputs are.
        network: Where.
        part: `"hessian"`; or `"gauss_newton"`, the curvature of the criterion seen through
            the Jacobian $J$ of the outputs, $J^\top (\nabla^2 \text{criterion}) J$; or
            `"residual"`, the rest, which is due to the curvature of the outputs.

    Raises:
        ValueError: If there is no such part, or the loss does not say what its outputs
            are.
    """
    _checks.choice("hessian(part=...)", part, get_args(Part))
    like, product = jax.eval_shape(lambda: network), _product(loss, network, part)
    return _Curvature(product, like, lx.symmetric_tag)  # pyright: ignore


class _Curvature(lx.FunctionLinearOperator):
    """The operator, which prints as its size and not as the program of its product."""

    def __repr__(self) -> str:
        return f"<symmetric operator on {self.in_size()} weights>"


def _product(loss, network, part):
    """The product with the Hessian, or with a part of it."""
    if part == "gauss_newton":
        return _gauss_newton(loss, network)
    _, product = jax.linearize(jax.grad(loss.excess), network)
    if part == "hessian":
        return product
    seen = _gauss_newton(loss, network)
    return lambda v: jax.tree.map(jnp.subtract, product(v), seen(v))


def _gauss_newton(loss, network):
    outputs, push = jax.linearize(loss.outputs, network)
    pull = jax.linear_transpose(push, network)
    _, curve = jax.linearize(jax.grad(loss.criterion), outputs)
    return lambda v: pull(curve(push(v)))[0]


class Spectrum(eqx.Module):
    r"""Extreme eigenpairs, largest first, with what is known of their error.

    Attributes:
        values: Rayleigh quotients.
        vectors: Networks of unit norm, stacked along a first axis. With a preconditioner
            $P$ they are those of $P^{-1/2} H P^{-1/2}$, so that $P^{-1/2} v$ is the
            direction in which weights move.
        residuals: Norms $\|H v - \lambda v\|$: an eigenvalue is this close to each.
            The error is of the order of the square over the gap to the next eigenvalue.
        bounds: How far each value can be from its own eigenvalue: the residual, the
            tolerance, and what rounding of the weights, of the loss's own numbers and of
            the product contributes. Only if converged. In single precision curvatures
            from $10^{-30}$ to $10^{30}$ are resolved to that tolerance, in double precision
            from $10^{-280}$ to $10^{280}$; the bounds include what is lost below.
        matvecs: Products with the Hessian that it took.
        converged: Whether every residual met the tolerance, up to rounding, and nothing
            suggested that a wanted eigenvalue was missed. Never of what is not finite.
    """

    values: Float[Array, " k"]
    vectors: PyTree[Array]
    residuals: Float[Array, " k"]
    bounds: Float[Array, " k"]
    matvecs: Int[Array, ""]
    converged: Bool[Array, ""]


@of_modules
def sharpness(
    loss: AbstractLoss,
    network: PyTree[Array],
    *,
    preconditioner: PyTree[Array] | None = None,
    start: Spectrum | None = None,
    rtol: float | None = None,
    max_matvecs: int = 1000,
    seed: int = 0,
) -> Scalar:
    r"""The largest eigenvalue of the Hessian, with its sign.

    Descent with step size $\eta$ is unstable above $2 / \eta$; for other optimizers see
    `stability_threshold`. Not the eigenvalue of largest modulus, which power iteration
    finds: near saddles that one is often negative. For the error bound, the number of
    products and the arguments, see `spectrum`.

    Deep linear networks with one output on a `Regression` are cheap, because their Hessian
    can be seen from a small space, exactly. `jax.vmap` solves those up to 16 wide together,
    some twenty times faster than one after the other; `max_matvecs` is then for the batch.

    Differentiable once, in `loss`, `network` and `preconditioner`, by the
    Hellmann-Feynman theorem; nothing differentiates through the iteration. Where the top
    eigenvalue is repeated the result is one element of the subgradient; the mean of all
    its copies, `jnp.mean(spectrum(..., largest=copies).values)`, is smooth there, and its
    derivative is exact. The eigenvector counts as a constant, so there is no second
    derivative: asking for one is an error.
    """
    key = _checks.seed("sharpness(seed=...)", seed)
    place = loss, network, preconditioner, start
    return _sharpness(*place, *_check("sharpness", *place[1:], rtol, max_matvecs), key)


@program
def _sharpness(loss, network, preconditioner, start, rtol, most, key):
    place = invariant.find(*frozen((loss, network)))
    if place is None or preconditioner is not None or start is not None:
        arguments = loss, network, preconditioner, start, rtol, most, key
        return _spectrum(*arguments, "hessian", 1, 0).values[0]
    random = vary_like(jr.normal(key, (invariant.size(place),), place.target.dtype), place)
    value, vector = invariant.largest(place, random, rtol, most)
    *_, embed = invariant.coordinates(place)
    vectors = jax.tree.map(lambda w: w[None], embed(vector))
    return _differentiable((loss, network, None), "hessian", value[None], vectors)[0]


@of_modules
def spectrum(
    loss: AbstractLoss,
    network: PyTree[Array],
    *,
    largest: int = 1,
    smallest: int = 0,
    part: Part = "hessian",
    preconditioner: PyTree[Array] | None = None,
    start: Spectrum | None = None,
    rtol: float | None = None,
    max_matvecs: int = 1000,
    seed: int = 0,
) -> Spectrum:
    r"""The largest and smallest eigenvalues of the Hessian, repeated ones included.

    By thick-restarted Lanczos with full orthogonalization (Wu & Simon, 2000), which
    continues with a random direction where a Krylov space is exhausted: at minima of
    linear networks there are few distinct eigenvalues, and at the origin only one.

    That an eigenvalue lies within each bound is certain. That it is the extreme one, from
    products alone, is not: it is as sure as that a random direction is not orthogonal to
    an eigenvector. Eigenvalues that differ by a few tolerances may be taken for each other.

    Args:
        largest: How many from the top.
        smallest: How many from the bottom.
        part: The Hessian, or which part of it; see `hessian`.
        preconditioner: A network $P$ of positive numbers. The eigenvalues are then those of
            $P^{-1/2} H P^{-1/2}$, which are those of $P^{-1} H$.
        start: What was found nearby, say at the record before; the search begins there,
            and still looks elsewhere, for what overtook.
        rtol: Stop when residuals are this small, relative to the largest modulus of an
            eigenvalue; the power $2/3$ of the rounding of the weights by default.
        max_matvecs: Products with the Hessian, for each of the two ends, after which to
            stop anyway, at the end of a cycle of at least twelve.
        seed: Where the iteration starts.

    Raises:
        ValueError: If more eigenvalues are asked for than there are, or none; if there is
            no such part, or the loss does not say what its outputs are; if the
            preconditioner is not a network of positive numbers.
    """
    key = _checks.seed("spectrum(seed=...)", seed)
    _checks.choice("spectrum(part=...)", part, get_args(Part))
    largest = _checks.whole("spectrum(largest=...)", largest, 0)
    smallest = _checks.whole("spectrum(smallest=...)", smallest, 0)
    count = sum(w.size for w in jax.tree.leaves(network))
    if not 1 <= largest + smallest <= count:
        raise ValueError(
            f"`spectrum(largest={largest}, smallest={smallest})` must ask for between 1 "
            f"and {count} eigenvalues, the number of weights."
        )
    place = loss, network, preconditioner, start
    options = _check("spectrum", *place[1:], rtol, max_matvecs)
    found = _spectrum(*place, *options, key, part, largest, smallest)
    rounding = _rounding(loss, network, preconditioner, found.vectors, part)
    return eqx.tree_at(lambda s: s.bounds, found, found.bounds + rounding)


def _check(name, network, preconditioner, start, rtol, most):
    """The tolerance and the number of products, if all is well.

    As arrays, so that other values do not compile again.
    """
    dtype = jax.tree.leaves(network)[0].dtype
    check_preconditioner(name, network, preconditioner)
    if start is not None:
        way = "It is what `spectrum` returns."
        _checks.kind(f"{name}(start=...)", start, Spectrum, way)
        given = jax.tree.map(lambda w: jnp.shape(w)[1:], start.vectors)
        if given != (shapes := jax.tree.map(jnp.shape, network)):
            raise ValueError(
                f"`{name}(start=...)` must be of a network of the same shapes, but is of "
                f"{given}, not {shapes}."
            )
    rtol = float(jnp.finfo(dtype).eps) ** (2 / 3) if rtol is None else rtol
    rtol = _checks.real(f"{name}(rtol=...)", rtol, _checks.NOT_NEGATIVE, dtype=dtype)
    if not isinstance(most, Tracer):
        most = _checks.whole(f"{name}(max_matvecs=...)", most)
    return rtol, jnp.asarray(most, jnp.int32)


def check_preconditioner(
    name: str, network: PyTree[Array], preconditioner: PyTree[Array] | None
) -> None:
    """Whether there is a positive number for each weight, if there is one at all."""
    if preconditioner is None:
        return
    shapes = lambda tree: jax.tree.map(jnp.shape, tree)
    same = jax.tree.structure(preconditioner) == jax.tree.structure(network)
    if not same or shapes(preconditioner) != shapes(network):
        given = shapes(preconditioner) if same else _checks.brief(preconditioner)
        raise ValueError(
            f"`{name}(preconditioner=...)` must hold a number for each weight, like the "
            f"network, but has shapes {given} for weights {shapes(network)}."
        )
    must = _checks.Must(
        "be positive and finite (that of an optimizer is, after a step)",
        lambda x: (x > 0) & np.isfinite(x),
    )
    for leaf in jax.tree.leaves(preconditioner):
        _checks.real(f"{name}(preconditioner=...)", leaf, must, ndim=None)


@program
def _spectrum(
    loss, network, preconditioner, start, rtol, most, key, part, largest, smallest
):
    flat, unravel = ravel_pytree(network)
    place = frozen((loss, network, preconditioner))
    product = operator(place, part)
    apply = lambda v: ravel_pytree(product(unravel(v)))[0]
    random = vary_like(
        jr.normal(key, flat.shape, flat.dtype), eqx.filter(place, eqx.is_array)
    )
    known = None
    if start is not None:
        vectors = frozen(start.vectors)
        known = jax.vmap(lambda v: ravel_pytree(v)[0])(vectors).astype(flat.dtype)
    ends = []
    for sign, count in ((1, largest), (-1, smallest)):
        if count:
            toward = lambda v, sign=sign: sign * apply(v)
            near = None if known is None else known[::sign][:count]
            found = _largest(toward, random, count, rtol, most, near)
            turned = [row[::sign] for row in found[:4]]
            ends.append((sign * turned[0], *turned[1:], *found[4:]))
    *pairs, used, met = zip(*ends, strict=True)
    values, vectors, residuals, bounds = map(jnp.concatenate, pairs)
    vectors = jax.vmap(unravel)(vectors)
    place = (loss, network, preconditioner)
    values = _differentiable(place, part, values, vectors)
    matvecs = jnp.stack(used).sum()
    converged = jnp.stack(met).all() & jnp.all(jnp.isfinite(values))
    return Spectrum(values, vectors, residuals, bounds, matvecs, converged)


def frozen(tree):
    """Without derivatives; what is not an array passes."""
    arrays, rest = eqx.partition(tree, eqx.is_array)
    return eqx.combine(jax.lax.stop_gradient(arrays), rest)


def operator(place, part):
    """The product with the Hessian, preconditioned from both sides."""
    loss, network, preconditioner = place
    product = _product(loss, network, part)
    if preconditioner is None:
        return product
    root = jax.tree.map(lambda p, w: jnp.sqrt(p).astype(w.dtype), preconditioner, network)
    divide = lambda v: jax.tree.map(jnp.divide, v, root)
    return lambda v: divide(product(divide(v)))


def _quotient(place, part, vector):
    """The Rayleigh quotient at a unit vector."""
    pairs = jax.tree.map(jnp.vdot, vector, operator(place, part)(vector))
    return sum(jax.tree.leaves(pairs))


@eqx.filter_custom_jvp
def _differentiable(place, part, values, vectors):
    """Eigenvalues with the derivative of Rayleigh quotients at their frozen vectors.

    At weights that are not finite they are not known, though the Hessian of a quadratic
    looks the same everywhere.
    """
    del part, vectors
    return jnp.where(tree_isfinite(place[1]), values, jnp.nan)


@_differentiable.def_jvp
@full_precision
def _(primals, tangents):
    place, part, values, vectors = primals
    vectors = _constant(vectors, place)
    quotients = lambda place: jax.vmap(lambda v: _quotient(place, part, v))(vectors)
    _, slopes = eqx.filter_jvp(quotients, (place,), (tangents[0],))
    return values, slopes


@eqx.filter_custom_jvp
def _constant(vectors, place):
    """Eigenvectors at a place, which must not move."""
    del place
    return vectors


@_constant.def_jvp
@full_precision
def _(primals, tangents):
    del primals, tangents
    raise NotImplementedError(
        "Eigenvalues, those of `sharpness` and `spectrum`, have no second derivative here, "
        "because eigenvectors count as constants; so `sharpening_rate` and "
        "`predicted_oscillation_variance` have no slope. Where it is not needed, give them "
        "`jax.lax.stop_gradient` of the loss and the network. For small networks use "
        "`jax.numpy.linalg.eigvalsh(hessian(loss, network).as_matrix())`; where a flow "
        "asks for it, a solver that does not, such as `diffrax.Tsit5()`."
    )


@program
def _rounding(loss, network, preconditioner, vectors, part):
    """How far rounding of all that the loss is computed from moves eigenvalues.

    To first order: what a relative error `eps` of every number of the loss, the network
    and the preconditioner can do at most, by the derivative of the Rayleigh quotient.
    """
    place = frozen((loss, network, preconditioner))
    numbers = jax.tree.leaves(eqx.filter(place, eqx.is_inexact_array))
    dtype = jax.tree.leaves(network)[0].dtype

    def one(vector):
        slopes = jax.tree.leaves(eqx.filter_grad(_quotient)(place, part, vector))
        moves = (jnp.sum(jnp.abs(g * w)) for g, w in zip(slopes, numbers, strict=True))
        return jnp.finfo(dtype).eps * sum(move.astype(dtype) for move in moves)

    return jax.lax.map(one, frozen(vectors))


@full_precision
def linear_gauss_newton_spectrum(
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

    Raises:
        TypeError: If the loss is no `Regression`, or the network no `DeepLinear`.
        ValueError: If the network does not fit the loss.
    """
    needs_regression("linear_gauss_newton_spectrum(loss=...)", loss)
    needs_linear("linear_gauss_newton_spectrum", network, loss)
    variances, axes = decompositions.eigh(loss.covariance)
    root = axes * jnp.sqrt(jnp.maximum(variances, 0))[None]
    inner = [a @ root for a in network.from_input[:-1]]
    outer = network.to_output[1:]
    if loss.readout is not None:
        outer = [loss.readout @ b for b in outer]
    blocks = [jnp.kron(b @ b.T, a.T @ a) for a, b in zip(inner, outer, strict=True)]
    return 2 * decompositions.eigvalsh(sum(blocks))[::-1]  # pyright: ignore
