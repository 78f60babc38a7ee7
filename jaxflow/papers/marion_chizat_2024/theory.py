"""What the paper predicts, in closed form; conventions are those of the package."""

import itertools as it
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Scalar, ScalarLike

from ... import _checks
from ..._linalg import decompositions
from ..._linalg.norms import norm
from ...losses import Regression
from ...losses.regression import needs_linear, needs_regression
from ...networks import DeepLinear
from ..mulayoff_michaeli_2020 import theory as exact


class Curvatures(NamedTuple):
    r"""The three numbers of the data that the bounds are made of.

    Attributes:
        along_target: $a = \hat w_\star^\top \Sigma \hat w_\star$.
        smallest: The smallest eigenvalue $\lambda$ of $\Sigma$.
        largest: The largest eigenvalue $\Lambda$ of $\Sigma$.
    """

    along_target: Scalar
    smallest: Scalar
    largest: Scalar


def curvatures(problem: Regression) -> Curvatures:
    r"""The curvature of the data along the target, and its extremes."""
    _check("curvatures", problem)
    _, along, _ = _polar(problem)
    eigenvalues = decompositions.eigvalsh(problem.covariance)
    return Curvatures(along @ problem.covariance @ along, eigenvalues[0], eigenvalues[-1])


def sharpness_lower_bound(problem: Regression, depth: int) -> Scalar:
    r"""No minimizer is flatter than $2 c L a$ (Theorem 1).

    Attained iff $w_\star$ is an eigenvector of $\Sigma$ and $\Lambda \le L a$ (derived).
    """
    _check("sharpness_lower_bound", problem, depth)
    return 2 * _size(problem, depth) * depth * curvatures(problem).along_target


def sharpness_upper_bound(problem: Regression, depth: int) -> Scalar:
    r"""Some minimizer is flatter than $2 c \sqrt{(2L-1) \Lambda^2 + (L-1)^2 a^2}$.

    The upper bound of Theorem 1, in the form remembered rather than read. Never violated
    in tests; $2 c (\Lambda + (L-1) a)$ is tighter (derived).
    """
    _check("sharpness_upper_bound", problem, depth)
    a, _, largest = curvatures(problem)
    inside = (2 * depth - 1) * largest**2 + (depth - 1) ** 2 * a**2
    return 2 * _size(problem, depth) * jnp.sqrt(inside)


def small_start_sharpness_bound(problem: Regression, depth: int) -> Scalar:
    r"""A small start ends flatter than $8 c L \Lambda$.

    The bound of the paper's figures, for gradient flow from a start that is small enough
    and not stuck at the origin. Loose: the limit of small starts is `balanced_sharpness`.
    """
    _check("small_start_sharpness_bound", problem, depth)
    return 8 * _size(problem, depth) * depth * curvatures(problem).largest


def flattest_sharpness(problem: Regression, depth: int) -> Scalar:
    r"""The sharpness of the flattest minimizers, exactly (derived).

    $$ 2 c \min_{\rho > 0} \lambda_{\max}\!\left(\rho \Sigma + (L-1)\, \rho^{-1/(L-1)}\,
       \Sigma^{1/2} \hat w_\star \hat w_\star^\top \Sigma^{1/2}\right), $$

    whatever the hidden widths, and for data of any rank; $2 \|p\|^2 \Lambda$ for depth 1.
    That of `mulayoff_michaeli_2020` for a target of norm one, times $c$. Differentiable in
    the problem by the envelope theorem, once.
    """
    _check("flattest_sharpness", problem, depth)
    return _size(problem, depth) * exact.flattest_sharpness(_unit(problem), depth)


def flattest_minimizer(
    problem: Regression, depth: int, *, width: int | None = None
) -> DeepLinear:
    r"""A minimizer of sharpness `flattest_sharpness` (derived).

    Rank-one layers whose singular vectors match. Layers $2..L$ share a norm; the first
    has another, unless the lower bound is attained.

    Args:
        problem: The regression.
        depth: The number of layers $L$.
        width: Neurons in each hidden layer; the number of inputs by default.
    """
    _check("flattest_minimizer", problem, depth)
    size, _, out = _polar(problem)
    ratio = exact.flattest_ratio(_unit(problem), depth)
    length = jnp.sqrt(ratio * _size(problem, depth))
    after = (length / out) ** (1 / (depth - 1)) if depth > 1 else 1.0
    first = size / jnp.where(length > 0, length, 1) if depth > 1 else size / out
    return _rank_one("flattest_minimizer", problem, depth, width, first, after)


def balanced_sharpness(problem: Regression, depth: int) -> Scalar:
    r"""The sharpness of the balanced rank-one minimizer, the limit of small starts.

    $$ 2 c\, \lambda_{\max}\!\left(\Sigma + (L-1)\, \Sigma^{1/2} \hat w_\star \hat
       w_\star^\top \Sigma^{1/2}\right) \le 2 c\, (\Lambda + (L-1) a) \quad
       \text{(derived)}. $$
    """
    _check("balanced_sharpness", problem, depth)
    return _size(problem, depth) * exact.balanced_sharpness(_unit(problem), depth)


def balanced_minimizer(
    problem: Regression, depth: int, *, width: int | None = None
) -> DeepLinear:
    """A minimizer whose layers share one norm, have rank one, and match.

    Args:
        problem: The regression.
        depth: The number of layers.
        width: Neurons in each hidden layer; the number of inputs by default.
    """
    _check("balanced_minimizer", problem, depth)
    size, _, out = _polar(problem)
    gain = (size / out) ** (1 / depth)
    return _rank_one("balanced_minimizer", problem, depth, width, gain, gain)


def critical_step_size(problem: Regression, depth: int) -> Scalar:
    r"""Above $2 /$ `flattest_sharpness` descent converges from almost no start.

    Just above, it stays on an orbit of period two around a minimum. The paper's own
    threshold is $1 / (c L a)$, which is never smaller; both hold for any start.
    """
    _check("critical_step_size", problem, depth)
    return 2 / flattest_sharpness(problem, depth)


def conserved(problem: Regression, network: DeepLinear) -> tuple[Float[Array, "_ _"], ...]:
    r"""The matrices $W_k W_k^\top - W_{k+1}^\top W_{k+1}$, constant along the flow.

    There is none between the last layer and a readout that is not trained.
    """
    del problem
    needs_linear("conserved", network)
    return tuple(a @ a.T - b.T @ b for a, b in it.pairwise(network.weights))


def rank_one_bound(problem: Regression, start: DeepLinear) -> Scalar:
    r"""Along the whole flow $\|W_k\|_F^2 - \|W_k\|_2^2$ stays below this (derived).

    $\max_k \|W_k\|_F^2 - \|W_L\|_F^2 + \sum_{j \ge k} \|D_j\|_2$ at the start, with $D_j$
    from `conserved`. Needs one output and no readout.
    """
    _check_bound("rank_one_bound", problem, start)
    return _rank_one_bound(problem, start)


def _check_bound(name, problem, start):
    needs_regression(f"{name}(problem=...)", problem)
    needs_linear(name, start, problem)
    if problem.readout is not None or problem.target.shape[0] != 1:
        raise ValueError(
            f"`{name}` needs one output and no readout, so that the last layer "
            f"has rank one, but the last layer has shape {start.weights[-1].shape}."
        )


def _rank_one_bound(problem, start):
    squares = jnp.stack([jnp.sum(w**2) for w in start.weights])
    gaps = [decompositions.spectral_norm(d) for d in conserved(problem, start)]
    gaps = jnp.stack([*gaps, jnp.zeros((), squares.dtype)])
    return jnp.max(squares - squares[-1] + jnp.cumsum(gaps[::-1])[::-1])


def alignment_bound(
    problem: Regression, start: DeepLinear, network: DeepLinear
) -> Float[Array, " pairs"]:
    r"""A lower bound of $\langle u_k, v_{k+1} \rangle^2$ at `network` (derived).

    $(\|W_{k+1}\|_2^2 - \|D_k\|_2 - e) / \|W_k\|_2^2$, for any point of the flow from
    `start`, whose `rank_one_bound` is $e$. Negative where it says nothing.
    """
    _check_bound("alignment_bound", problem, start)
    needs_linear("alignment_bound", network, problem)
    slack = _rank_one_bound(problem, start)
    gaps = jnp.array([decompositions.spectral_norm(d) for d in conserved(problem, start)])
    tops = jnp.array([decompositions.spectral_norm(w) ** 2 for w in network.weights])
    return (tops[1:] - gaps - slack) / tops[:-1]


def balanced_velocity(
    problem: Regression, depth: int, w: Float[Array, " in"]
) -> Float[Array, " in"]:
    r"""How the end-to-end vector moves under the flow of a balanced rank-one network.

    $\dot w = -\|w\|^{2-2/L} \|p\|^{2/L} (I + (L-1) \hat w \hat w^\top)\, g$ with
    $g = 2 \Sigma (w - w_\star)$: exact from such a start, and the limit of small ones
    (derived).
    """
    _check("balanced_velocity", problem, depth)
    name = "balanced_velocity(w=...)"
    w = _checks.real(name, w, _checks.REAL, dtype=problem.target.dtype, ndim=1)
    if w.shape != problem.target[0].shape:
        raise ValueError(
            f"`{name}` must have the problem's {problem.target.shape[1]} inputs, but has "
            f"shape {w.shape}."
        )
    _, _, out = _polar(problem)
    slope = 2 * problem.covariance @ (w - problem.target[0])
    size = norm(w)
    along = w / jnp.where(size > 0, size, 1)
    speed = size ** (2 - 2 / depth) * out ** (2 / depth)
    return -speed * (slope + (depth - 1) * (along @ slope) * along)


def escape_time(problem: Regression, depth: int, size: ScalarLike) -> Scalar:
    r"""When a flow from a small $\|w(0)\|$ = `size` reaches half the target (derived).

    $\|w(0)\|^{-(1-2/L)} \|p\|^{-2/L} / (2 (L-2) \|\Sigma w_\star\|)$ for $L \ge 3$, to
    leading order, and $\log(\|w_\star\| / 2 \|w(0)\|) / (4 \|p\| \|\Sigma w_\star\|)$ for
    $L = 2$, from a start that has aligned. Weights of scale $s$ have $\|w(0)\| \sim s^L$.

    Raises:
        ValueError: If `depth` is 1, where the origin is no saddle, or `size` is not
            positive.
    """
    _check("escape_time", problem, depth, least=2)
    dtype = problem.target.dtype
    size = _checks.real("escape_time(size=...)", size, _checks.POSITIVE, dtype=dtype)
    target, _, out = _polar(problem)
    pull = norm(problem.covariance @ problem.target[0])
    if depth == 2:
        return jnp.log(target / (2 * size)) / (4 * out * pull)
    power = 1 - 2 / depth
    return size**-power * out ** (-2 / depth) / (2 * (depth - 2) * pull)


def _check(name: str, problem: Regression, depth: int = 1, least: int = 1):
    needs_regression(f"{name}(problem=...)", problem)
    _checks.whole(f"{name}(depth=...)", depth, least)
    if problem.target.shape[0] != 1:
        raise ValueError(
            f"`{name}(problem=...)` must have one output, which Marion & Chizat (2024) "
            f"treat, but has {problem.target.shape[0]}. For several see "
            "`jaxflow.papers.mulayoff_michaeli_2020`."
        )


def _polar(problem: Regression) -> tuple[Scalar, Float[Array, " in"], Scalar]:
    r"""$\|w_\star\|$, its direction, and $\|p\|$."""
    [row] = problem.target
    size = norm(row)
    readout = jnp.ones(1, row.dtype) if problem.readout is None else problem.readout[0]
    return size, row / jnp.where(size > 0, size, 1), norm(readout)


def _size(problem: Regression, depth: int) -> Scalar:
    size, _, out = _polar(problem)
    return size ** (2 - 2 / depth) * out ** (2 / depth)


def _unit(problem: Regression) -> Regression:
    """The problem with a target of norm one, and no readout, to which others scale."""
    _, along, _ = _polar(problem)
    return Regression(along[None], problem.covariance, problem.floor)


def _rank_one(name, problem, depth, width, first, after) -> DeepLinear:
    """Matching rank-one layers from the target to the readout, with these norms."""
    _, along, out = _polar(problem)
    width = along.size if width is None else _checks.whole(f"{name}(width=...)", width)
    hidden = jnp.zeros(width, along.dtype).at[0].set(1)
    last = jnp.ones(1, along.dtype) if problem.readout is None else problem.readout[0] / out
    units = [along, *[hidden] * (depth - 1), last]
    norms = [first, *[after] * (depth - 1)]
    pairs = zip(norms, it.pairwise(units), strict=True)
    return DeepLinear(tuple(n * jnp.outer(then, before) for n, (before, then) in pairs))
