"""What the paper predicts, in closed form; conventions are those of the package."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float, Scalar, ScalarLike

from ... import _checks
from ..._linalg import decompositions
from ..._linalg.norms import norm
from ...losses import Regression
from ...losses.regression import needs_linear, needs_regression
from ...networks import DeepLinear


def flattest_sharpness(problem: Regression, depth: int) -> Scalar:
    r"""The sharpness of the flattest minimizers, exactly.

    $$ 2 L \max_{\|q\| = 1} \|R q\|^{2/L} \|T R q\|^{2 - 2/L}
       = 2 \min_{\beta > 0} \lambda_{\max}\!\left(\beta^2 \Sigma
         + (L-1)\, \beta^{-2/(L-1)} R T^\top T R\right), $$

    whatever the hidden widths, if they are at least the rank of $T$, and for data of any
    rank. For white data it is $2 L \sigma^{2-2/L}$. The minimum is that of a convex
    function of one variable, $\log \beta$. Differentiable in the problem once, by the
    envelope theorem; where two signals are as sharp, along an element of the subgradient.
    """
    _check("flattest_sharpness", problem, depth)
    path = _solve(jax.lax.stop_gradient(problem), depth)
    tilt, size = _tilt(problem, depth, path.log_ratio)
    # At the top, `signal` and its image are the right and left eigenvectors of Sigma tilt.
    image = jax.lax.stop_gradient(tilt @ path.signal)
    curvature = image @ problem.covariance @ tilt @ path.signal
    value = curvature / _positive(image @ path.signal)
    return 2 * size * value


def flattest_ratio(problem: Regression, depth: int) -> Scalar:
    r"""The minimizing $\beta^2 / \sigma^{2-2/L}$ of `flattest_sharpness`.

    $\beta$ is the norm of $W_L \cdots W_2$ at `flattest_minimizer`; for white data, and
    for one layer, the ratio is one. Not differentiable.
    """
    _check("flattest_ratio", problem, depth)
    return jnp.exp(_solve(jax.lax.stop_gradient(problem), depth).log_ratio)


class DedicatedPath(NamedTuple):
    r"""The signal of largest sharpness, and what the flattest minima make of it.

    Attributes:
        signal: $p / \|p\|$ for $p = R q$ with the $q$ of `flattest_sharpness`, of shape
            `(in,)`; for white data the top right singular vector of the target.
        gain: $\gamma = (\|T p\| / \|p\|)^{1/L}$, by which each layer amplifies it.
        variance: $\|p\|^2 = q^\top \Sigma q$; one for white data.
    """

    signal: Float[Array, " in"]
    gain: Scalar
    variance: Scalar


def dedicated_path(problem: Regression, depth: int) -> DedicatedPath:
    r"""The path that the layers of every flattest minimum share.

    If $q$ is unique: with $h_0 = p / \|p\|$ and $h_k$ the direction of $W_k h_{k-1}$,
    $W_k h_{k-1} = \gamma h_k$ in all layers and $W_k^\top h_k = \gamma h_{k-1}$ in all but
    the first, and in the first as well for white data. So `gains` of the signal are
    $\gamma$ and `path_coupling` is 1, though neither need be those of top singular vectors.
    Not differentiable.
    """
    _check("dedicated_path", problem, depth)
    signal = _solve(jax.lax.stop_gradient(problem), depth).signal
    variance = signal @ signal
    unit = signal / jnp.sqrt(jnp.where(variance > 0, variance, 1))
    gain = norm(problem.target @ unit) ** (1 / depth)
    return DedicatedPath(unit, gain, variance)


def flattest_minimizer(
    problem: Regression, depth: int, *, width: int | None = None
) -> DeepLinear:
    r"""A minimizer of sharpness `flattest_sharpness`.

    $W_1 = S V^\top / \beta$ and $W_2 = \dots = \beta^{1/(L-1)} I$, the last one times $U$,
    for the singular value decomposition $U S V^\top$ of the target; zeros elsewhere.

    Args:
        problem: The regression.
        depth: The number of layers $L$.
        width: Neurons in each hidden layer; the smaller side of the target by default.

    Raises:
        ValueError: If `width` is less than the rank of the target, so that there is no
            minimizer of zero excess.
    """
    _check("flattest_minimizer", problem, depth)
    ratio = flattest_ratio(problem, depth)
    if depth == 1:
        return DeepLinear((problem.target,))
    left, values, right = _decompose("flattest_minimizer", problem.target, width)
    after = jnp.sqrt(ratio) * values[0] ** (1 - 1 / depth)
    first = values[:, None] * right / _positive(after)
    rest = after ** (1 / (depth - 1))
    middle = [rest * jnp.eye(values.size, dtype=values.dtype)] * (depth - 2)
    return _embed([first, *middle, rest * left], width)


def sharpness_lower_bound(problem: Regression, depth: int) -> Scalar:
    r"""No minimizer is flatter than $2 L \sigma^{2-2/L}\, v^\top \Sigma v$.

    Attained for white data; `flattest_sharpness` is never below.
    """
    _check("sharpness_lower_bound", problem, depth)
    [top] = _singular(problem, depth)[2][:1]
    return _white(problem, depth) * (top @ problem.covariance @ top)


def balanced_sharpness_bound(problem: Regression, depth: int) -> Scalar:
    r"""Balanced minimizers are at most as sharp as $2 L \sigma^{2-2/L}\, \|\Sigma\|_2$.

    Attained for white data, where all of them are flattest.
    """
    _check("balanced_sharpness_bound", problem, depth)
    return _white(problem, depth) * decompositions.eigvalsh(problem.covariance)[-1]


def balanced_sharpness(problem: Regression, depth: int) -> Scalar:
    r"""The sharpness of all balanced minimizers, such as `init.balanced`.

    $2 \lambda_{\max}(R V D V^\top R)$ with
    $D_j = \sum_{k=1}^L \sigma^{2(L-k)/L} s_j^{2(k-1)/L}$. So end linear residual networks
    that start from zero residuals, if they arrive.
    """
    _check("balanced_sharpness", problem, depth)
    _, values, right = _singular(problem, depth)
    padding = right.shape[0] - values.size
    values = jnp.pad(values, (0, padding))
    powers = [(2 * (depth - k) / depth, 2 * (k - 1) / depth) for k in range(1, depth + 1)]
    weight = sum(values[0] ** a * values**b for a, b in powers)
    half = jnp.sqrt(weight)[:, None] * right  # pyright: ignore
    return 2 * decompositions.eigvalsh(half @ problem.covariance @ half.T)[-1]


def sharpness_upper_bound(problem: Regression, network: DeepLinear) -> Scalar:
    r"""No minimizer is sharper than $2 \sum_k \|A_k R\|_2^2 \|B_k\|_2^2$.

    Equal to its sharpness for two layers and white data, where it is
    $2 (\|W_1\|_2^2 + \|W_2\|_2^2)$; in general larger.
    """
    _check("sharpness_upper_bound", problem)
    needs_linear("sharpness_upper_bound", network, problem)
    tops = [
        decompositions.eigvalsh(a @ problem.covariance @ a.T)[-1]
        * decompositions.spectral_norm(b) ** 2
        for a, b in _surroundings(network)
    ]
    return 2 * jnp.sum(jnp.stack(tops))


def critical_step_size(problem: Regression, depth: int) -> Scalar:
    r"""Above $2 /$ `flattest_sharpness` no minimizer is stable for gradient descent."""
    _check("critical_step_size", problem, depth)
    return 2 / flattest_sharpness(problem, depth)


def least_trace(problem: Regression, depth: int) -> Scalar:
    r"""The least trace of the Hessian at a minimizer,
    $2 L\, (d_y\, \mathrm{tr}\, \Sigma)^{1/L}\, \|T R\|_*^{2-2/L}$.

    For $d_y$ outputs, with the sum of singular values $\|\cdot\|_*$. Other minimizers than
    the flattest ones attain it, but for one or two layers.
    """
    _check("least_trace", problem, depth)
    *_, sizes = _traces(problem, depth)
    variance = jnp.trace(problem.covariance) * problem.target.shape[0]
    return 2 * depth * variance ** (1 / depth) * jnp.sum(sizes) ** (2 - 2 / depth)


def least_trace_minimizer(
    problem: Regression, depth: int, *, width: int | None = None
) -> DeepLinear:
    r"""A minimizer whose Hessian has the trace `least_trace`.

    $W_1 \propto S^{1/2} V^\top R^{+}$ and $W_L \propto U S^{1/2}$ for the decomposition
    $U S V^\top$ of $T R$, and multiples of the identity between. Arguments and errors are
    those of `flattest_minimizer`.
    """
    _check("least_trace_minimizer", problem, depth)
    if depth == 1:
        return DeepLinear((problem.target,))
    inverse, left, right, values = _traces(problem, depth)
    outputs, total = problem.target.shape[0], jnp.sum(values)
    variance = jnp.trace(problem.covariance)
    term = (variance * outputs) ** (1 / depth) * total ** (2 - 2 / depth)
    first = jnp.sqrt(variance * total / _positive(term))
    between = total / _positive(jnp.sqrt(term))
    last = 1 / _positive(first * between ** (depth - 2))
    _decompose("least_trace_minimizer", problem.target, width)  # Whether it fits.
    root = jnp.sqrt(values)
    kept = values.size if width is None else min(width, values.size)
    eye = jnp.eye(kept, dtype=values.dtype)
    layers = [first * root[:kept, None] * (right[:kept] @ inverse)]
    layers += [between * eye] * (depth - 2) + [last * left[:, :kept] * root[None, :kept]]
    return _embed(layers, width)


class Bounds(NamedTuple):
    """From below and from above."""

    lower: Array
    upper: Array


def gain_bounds(problem: Regression, depth: int) -> Bounds:
    r"""The largest gain $\|W_l \cdots W_1 R\|_2$ of the first layers of a flattest minimum.

    For $l = 1..L-1$ between $\gamma^l \|p\|$ and
    $\gamma^l \sqrt{L \|p\|^2 - \lambda_{\min}(\Sigma)}$, of shape `(depth - 1,)`; for white
    data between $\sigma^{l/L}$ and $\sqrt{L-1}\, \sigma^{l/L}$, which is attained.
    """
    _check("gain_bounds", problem, depth)
    _, gain, variance = dedicated_path(problem, depth)
    powers = gain ** jnp.arange(1, depth).astype(gain.dtype)
    rest = depth * variance - decompositions.eigvalsh(problem.covariance)[0]
    return Bounds(powers * jnp.sqrt(variance), powers * jnp.sqrt(rest))


def tail_gain_bounds(problem: Regression, depth: int) -> Bounds:
    r"""The largest gain $\|W_L \cdots W_{l+1}\|_2$ of a flattest minimum's last layers.

    For $l = 1..L-1$ between $\gamma^{L-l}$ and $\sqrt{L-1}\, \gamma^{L-l}$, of shape
    `(depth - 1,)`, for any data. With one input the upper one is attained.
    """
    _check("tail_gain_bounds", problem, depth)
    gain = dedicated_path(problem, depth).gain
    powers = gain ** jnp.arange(depth - 1, 0, -1).astype(gain.dtype)
    return Bounds(powers, powers * math.sqrt(depth - 1))


def path_gain_bounds(problem: Regression, depth: int, ratio: ScalarLike) -> Bounds:
    r"""The gain of the dedicated signal in each layer of a nearly flattest minimum.

    For a minimizer at most `ratio` $= \rho \ge 1$ times as sharp as the flattest it is
    between $\gamma\, x_+^{-1/2}$ and $\gamma\, x_-^{-1/2}$, with $x_- \le 1 \le x_+$ the
    roots of $x\, ((\rho L - x) / (L-1))^{L-1} = 1$: within $O(\sqrt{\rho - 1})$ of
    $\gamma$. Both are attained, at any depth, by scalar layers.

    Raises:
        ValueError: If `ratio` is less than one, or there is one layer.
    """
    _check("path_gain_bounds", problem, depth, least=2)
    flattest = _checks.Must(
        "be at least 1, for no minimizer is flatter than the flattest",
        lambda x: (x >= 1) & np.isfinite(x),
    )
    ratio = _checks.real("path_gain_bounds(ratio=...)", ratio, flattest, dtype=float)
    gain = dedicated_path(problem, depth).gain
    ratio = ratio.astype(gain.dtype)
    log = lambda x: jnp.log(x) + (depth - 1) * jnp.log((depth * ratio - x) / (depth - 1))
    least = ((depth - 1) / (depth * ratio)) ** (depth - 1)
    # Where it is zero or more, `log` is concave, and its top is at `ratio`.
    low, high = _root(log, least, jnp.ones_like(ratio)), _root(log, depth * ratio, ratio)
    return Bounds(gain / jnp.sqrt(high), gain / jnp.sqrt(low))


def near_balance(problem: Regression, network: DeepLinear) -> Float[Array, "2"]:
    r"""How far a minimizer is from how nearly balanced the flattest ones are.

    At every flattest minimum the largest eigenvalues of
    $\sum_k \gamma^{-2(k-1)} R A_k^\top A_k R$ over $L \|p\|^2$ and of
    $\sum_k \gamma^{-2(L-k)} B_k B_k^\top$ over $L$ are both exactly 1; this is by how much
    they exceed it. Directions other than the dedicated one may be unbalanced by
    $\sqrt{L-1}$ for that.
    """
    _check("near_balance", problem)
    needs_linear("near_balance", network, problem)
    depth = network.depth
    _, gain, variance = dedicated_path(problem, depth)
    inner, outer = zip(*_surroundings(network), strict=True)
    powers = [gain**k for k in range(depth)]
    first = jnp.concatenate([a / p for a, p in zip(inner, powers, strict=True)])
    last = jnp.concatenate([b / p for b, p in zip(outer, powers[::-1], strict=True)], 1)
    before = decompositions.eigvalsh(first @ problem.covariance @ first.T)[-1]
    after = decompositions.eigvalsh(last @ last.T)[-1]
    return jnp.stack([before / variance, after]) / depth - 1


def identity_sharpness(problem: Regression, depth: int) -> Scalar:
    r"""The sharpness where residuals are zero, for white data and a symmetric target.

    $2 (L + (L-1)(1 - t))$ with the least eigenvalue $t$ of the target, unless it has large
    ones; then the largest eigenvalue of the small matrices that the Hessian falls into, a
    pair of eigenvectors of the target each. The start can be sharper than any minimum.

    Raises:
        ValueError: If data are not white, or the target is not symmetric.
    """
    _check("identity_sharpness", problem, depth)
    target = problem.target
    eye = jnp.eye(problem.covariance.shape[0], dtype=target.dtype)
    if _concrete(jnp.any(_gap(problem.covariance, eye))):
        raise ValueError(
            "`identity_sharpness` needs white data: use `white, _ = whiten(problem)`."
        )
    if target.shape[0] != target.shape[1] or _concrete(jnp.any(_gap(target, target.T))):
        raise ValueError("`identity_sharpness` needs a symmetric target.")
    errors = 1 - decompositions.eigvalsh(target)
    ones, later = jnp.ones((depth, depth)), jnp.tril(jnp.ones((depth, depth)), -1)
    ones, later = ones.astype(errors.dtype), later.astype(errors.dtype)

    def pair(one, other):
        mixed = one * later + other * later.T
        return decompositions.eigvalsh(jnp.block([[ones, mixed], [mixed.T, ones]]))[-1]

    tops = jax.vmap(lambda one: jax.vmap(lambda other: pair(one, other))(errors))(errors)
    # A vector and itself are no pair: one block, not two.
    alone = jax.vmap(lambda e: decompositions.eigvalsh(ones + e * (later + later.T))[-1])
    tops = jnp.where(jnp.eye(errors.size, dtype=bool), alone(errors)[None], tops)
    return 2 * jnp.max(tops)


def residual_limit(problem: Regression, depth: int) -> DeepLinear:
    r"""Where the flow from zero residuals ends: all layers are $T^{1/L}$, principal roots.

    For white data and a normal target with no negative eigenvalue, and for other data if
    the target commutes with the covariance. Along the flow each
    eigenvalue of the end-to-end matrix moves straight from 1 to that of the target, and
    where that is zero it falls as a power of time. The limit is balanced, and for white
    data among the flattest. Not differentiable.

    Targets that are not normal have limits without a closed form, balanced as well. Where
    the determinant is negative, or a normal target has a negative eigenvalue, the flow ends
    at a saddle instead, although its sharpness can be that of the flattest minimizers.

    Raises:
        ValueError: If the target is not as said.
    """
    _check("residual_limit", problem, depth)
    target = problem.target
    commute = lambda a, b: not _concrete(jnp.any(_gap(a @ b, b @ a)))
    if (
        target.shape[0] != target.shape[1]
        or not commute(target, target.T)
        or not commute(target, problem.covariance)
    ):
        raise ValueError(
            "`residual_limit` needs a target that commutes with its transpose and with the "
            "covariance: the limits of others have no closed form. Use `whiten`, or follow "
            "`gradient_flow` from `init.identity`."
        )
    values, vectors = decompositions.eig(target)
    rounding = target.shape[0] * jnp.finfo(target.dtype).eps * jnp.max(jnp.abs(values))
    values = jnp.where(jnp.abs(values) <= rounding, 0, values)
    behind = (jnp.abs(values.imag) <= rounding) & (values.real < 0)
    if _concrete(jnp.any(behind)):
        raise ValueError(
            "`residual_limit` needs a target without negative eigenvalues, but the least "
            f"is {float(jnp.min(values.real)):.4g}: no flow from the identity reaches it. "
            "It ends at a saddle where they are zero."
        )
    root = (vectors * values[None] ** (1 / depth)) @ decompositions.inv(vectors)
    return DeepLinear((root.real.astype(target.dtype),) * depth)


class _Solution(NamedTuple):
    log_ratio: Scalar
    signal: Float[Array, " in"]


def _solve(problem: Regression, depth: int) -> _Solution:
    r"""The minimizing $\log \rho$ and $p = R q$, for the target over its norm.

    By halving where the slope of the convex function changes its sign.
    """
    variances, axes = decompositions.eigh(problem.covariance)
    root = axes * jnp.sqrt(jnp.maximum(variances, 0))[None]
    curve = lambda log_ratio: root.T @ _tilt(problem, depth, log_ratio)[0] @ root
    start = jnp.zeros((), root.dtype)
    if depth == 1:
        return _Solution(start, root @ decompositions.eigh(curve(start))[1][:, -1])
    seen = problem.target / _positive(decompositions.spectral_norm(problem.target)) @ root

    def slope(log_ratio):
        """Of any $q$, the derivative of what the curve makes of it."""
        steep = jnp.exp(-log_ratio / (depth - 1)) * seen.T @ seen
        return jnp.exp(log_ratio) * root.T @ root - steep

    def halve(_, interval):
        low, high = interval
        middle = (low + high) / 2
        top = decompositions.eigh(curve(middle))[1][:, -1]
        rising = top @ slope(middle) @ top > 0
        return jnp.where(rising, low, middle), jnp.where(rising, middle, high)

    # At the minimum each of the two terms alone is at most the value at ratio 1.
    value = decompositions.eigvalsh(curve(start))[-1]
    steepest = decompositions.spectral_norm(seen) ** 2
    tiny = jnp.finfo(root.dtype).tiny
    low = (depth - 1) * jnp.log(jnp.maximum((depth - 1) * steepest / value, tiny))
    high = jnp.log(jnp.maximum(value / _positive(variances[-1]), 1))
    # No target, or none that the data show: no tilt.
    interval = jnp.where(steepest > 0, low, 0), jnp.where(steepest > 0, high, 0)
    low, high = jax.lax.fori_loop(0, 80, halve, interval)
    log_ratio = jnp.where(jnp.isnan(value), jnp.nan, (low + high) / 2)
    # Where eigenvalues cross, it is the mixture of their vectors that has no slope.
    values, vectors = decompositions.eigh(curve(log_ratio))
    rounding = jnp.finfo(root.dtype).eps ** 0.5 * values[-1]
    near = (values >= values[-1] - rounding).astype(root.dtype)
    vectors *= near[None]
    slopes, turns = decompositions.eigh(vectors.T @ slope(log_ratio) @ vectors)
    crossing = (slopes[0] < -rounding) & (slopes[-1] > rounding)
    share = -slopes[0] / jnp.where(crossing, slopes[-1] - slopes[0], 1)
    share = jnp.where(crossing, share, 1)
    mixed = jnp.sqrt(share) * turns[:, -1] + jnp.sqrt(1 - share) * turns[:, 0]
    single = jnp.zeros_like(mixed).at[-1].set(1)
    mixed = near * jnp.where(crossing, mixed, single)
    return _Solution(log_ratio, root @ vectors @ mixed / jnp.linalg.norm(mixed))


def _tilt(problem: Regression, depth: int, log_ratio: Scalar) -> tuple[Array, Scalar]:
    r"""$\rho I + (L-1) \rho^{-1/(L-1)} T^\top T / \sigma^2$, and $\sigma^{2-2/L}$."""
    target = problem.target
    norm = jax.lax.stop_gradient(decompositions.spectral_norm(target))
    size = norm ** (2 - 2 / depth)
    eye = jnp.eye(target.shape[1], dtype=target.dtype)
    if depth == 1:
        return eye, size
    scaled = target / _positive(norm)
    steep = (depth - 1) * jnp.exp(-log_ratio / (depth - 1))
    return jnp.exp(log_ratio) * eye + steep * scaled.T @ scaled, size


def _traces(problem, depth):
    r"""$R^{+}$, and the singular value decomposition of $T R$."""
    variances, axes = decompositions.eigh(problem.covariance)
    rounding = variances.size * jnp.finfo(axes.dtype).eps * variances[-1]
    seen = variances > rounding
    spread = jnp.sqrt(jnp.where(seen, variances, 0))
    root = axes * spread[None] @ axes.T
    inverse = axes * jnp.where(seen, 1 / jnp.where(seen, spread, 1), 0)[None] @ axes.T
    left, values, right = decompositions.svd(problem.target @ root, full_matrices=False)
    return inverse, left, right, values


def _singular(problem, depth):
    """The singular value decomposition of the target, with all right vectors."""
    return decompositions.svd(problem.target, full_matrices=True)


def _white(problem, depth):
    top = decompositions.spectral_norm(problem.target)
    return 2 * depth * top ** (2 - 2 / depth)


def _decompose(name, target, width):
    """As many singular triples as fit between, if that is all of them."""
    triples = decompositions.svd(target, full_matrices=False)
    sides = min(target.shape)
    if width is None or _checks.whole(f"{name}(width=...)", width) >= sides:
        return triples
    left, values, right = triples
    rounding = max(target.shape) * jnp.finfo(values.dtype).eps * values[0]
    if isinstance(values, Tracer):
        raise ValueError(
            f"`{name}(width=...)` must be at least {sides} under a transformation, where "
            f"the rank of the target is not known, but is {width}."
        )
    if (rank := int(jnp.sum(values > rounding))) > width:
        raise ValueError(
            f"`{name}(width=...)` must be at least the rank of the target, {rank}, but is "
            f"{width}: networks with this bottleneck cannot reach it."
        )
    return left[:, :width], values[:width], right[:width]


def _embed(layers, width):
    """Layers as wide as asked for between, by zeros."""
    between = layers[0].shape[0] if width is None else width
    sizes = [layers[0].shape[1], *[between] * (len(layers) - 1), layers[-1].shape[0]]
    padded = []
    for k, layer in enumerate(layers):
        rows, columns = sizes[k + 1] - layer.shape[0], sizes[k] - layer.shape[1]
        padded.append(jnp.pad(layer, ((0, rows), (0, columns))))
    return DeepLinear(tuple(padded))


def _surroundings(network):
    """What is before and behind each layer, $A_k$ and $B_k$."""
    return list(zip(network.from_input[:-1], network.to_output[1:], strict=True))


def _root(function, end, inside):
    """Where a function that is positive `inside` and negative at `end` is zero."""

    def halve(_, interval):
        end, inside = interval
        middle = (end + inside) / 2
        above = function(middle) > 0
        return jnp.where(above, end, middle), jnp.where(above, middle, inside)

    end, inside = jax.lax.fori_loop(0, 100, halve, (end, inside))
    return (end + inside) / 2


def _positive(x):
    return jnp.where(x > 0, x, 1)


def _concrete(condition) -> bool:
    """Whether it holds, if that is known while tracing."""
    return not isinstance(condition, Tracer) and bool(condition)


def _gap(a, b):
    """Where matrices differ by more than rounding."""
    scale = jnp.maximum(jnp.max(jnp.abs(a)), jnp.max(jnp.abs(b)))
    return jnp.abs(a - b) > math.sqrt(jnp.finfo(a.dtype).eps) * scale


def _check(name: str, problem: Regression, depth: int = 1, least: int = 1):
    needs_regression(f"{name}(problem=...)", problem)
    _checks.whole(f"{name}(depth=...)", depth, least)
    if problem.readout is not None:
        raise ValueError(
            f"`{name}(problem=...)` must have no readout, for Mulayoff & Michaeli (2020) "
            "train all layers. For one output, see `jaxflow.papers.marion_chizat_2024`."
        )
