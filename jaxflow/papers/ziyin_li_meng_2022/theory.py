"""What the paper predicts, in closed form; conventions are those of the package."""

import functools as ft
import itertools as it
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, ArrayLike, Bool, Float, Scalar, ScalarLike

from ... import _checks
from ..._linalg import decompositions
from ..._linalg.norms import norm
from ...losses import Regression
from ...losses.regression import needs_regression
from ...networks import DeepLinear
from ...networks.fields import per_layer

Strengths = ArrayLike | Sequence[ScalarLike]

# Points at which to look for extrema, and halvings from there.
CELLS, HALVINGS = 128, 44


class Minimum(NamedTuple):
    r"""The global minimum over all weights.

    Attributes:
        loss: Its loss; at the origin $E[y^2]$.
        map: The end-to-end vector $v$.
        scale: $\zeta = |v|^{2/(D+1)}$; in all layers $\gamma_i \|W_i\|_F^2 = \gamma \zeta$.
        trivial: Whether it is the origin.
    """

    loss: Scalar
    map: Float[Array, " in"]
    scale: Scalar
    trivial: Bool[Array, ""]


def minimum(
    problem: Regression,
    widths: Sequence[int],
    *,
    variance: Strengths = 0.0,
    decay: Strengths,
) -> Minimum:
    r"""The global minimum, exactly, for one output.

    With no hidden layer ridge regression. With one, the origin iff $|g| \le \gamma$,
    whatever the noise. With more, the origin is always a local minimum, and the global one
    above `critical_point`.

    Args:
        problem: The regression.
        widths: Neurons in each hidden layer.
        variance: Variances of the noise.
        decay: Strengths of weight decay.

    Raises:
        ValueError: If there are several outputs or a readout, the covariance is not
            positive semidefinite, or a strength is out of range. Where strengths are only
            known at run time, as members of a batch, their result is `nan`.
    """
    widths = _check("minimum", problem, widths)
    given = _reduce("minimum", problem, widths, variance, decay)
    return _minimum(problem, *given, **_depth(widths))


class Stationary(NamedTuple):
    r"""All stationary values of the loss but that of the origin, largest network first.

    Attributes:
        loss: The loss at each, of shape `(roots,)`; `nan` where there are fewer.
        map: The end-to-end vectors, of shape `(roots, in)`.
        scale: $\zeta = |v|^{2/(D+1)}$.
        stable: Whether it is a local minimum. Else a saddle, the barrier between two.
    """

    loss: Float[Array, " roots"]
    map: Float[Array, "roots in"]
    scale: Float[Array, " roots"]
    stable: Bool[Array, " roots"]


def stationary(
    problem: Regression,
    widths: Sequence[int],
    *,
    variance: Strengths = 0.0,
    decay: Strengths,
) -> Stationary:
    r"""All solutions of the form of the global minimum.

    None or two for isotropic data and $D \ge 2$; at most twice the number of inputs for
    others, in turn minima and saddles. Arguments and errors are those of `minimum`.
    """
    widths = _check("stationary", problem, widths)
    given = _reduce("stationary", problem, widths, variance, decay)
    return _stationary(problem, *given, **_depth(widths))


def minimizer(
    problem: Regression,
    widths: Sequence[int],
    *,
    variance: Strengths = 0.0,
    decay: Strengths,
    signs: Sequence[ArrayLike] | None = None,
) -> DeepLinear:
    """The weights of the global minimum, see `configuration`.

    With noise in all hidden layers these are all of them, one for each choice of signs.
    """
    widths = _check("minimizer", problem, widths)
    given = _reduce("minimizer", problem, widths, variance, decay)
    found = _minimum(problem, *given, **_depth(widths))
    return configuration(problem, widths, found.map, decay=decay, signs=signs)


def configuration(
    problem: Regression,
    widths: Sequence[int],
    vector: Float[Array, " in"],
    *,
    decay: Strengths,
    signs: Sequence[ArrayLike] | None = None,
) -> DeepLinear:
    r"""Weights of least loss among all those whose end-to-end vector is `vector`.

    $W_1 = r_1 w^\top$, $W_i = b_i r_i r_{i-1}^\top$ and $W_{D+1} = b\, r_D^\top$, so that
    neurons of a layer are equal up to sign, and $\gamma_i \|W_i\|_F^2$ is the same in all
    layers. Their loss is `effective_loss`.

    Args:
        problem: The regression.
        widths: Neurons in each hidden layer.
        vector: The end-to-end vector $v$.
        decay: Strengths of weight decay.
        signs: Vectors $r_i$ of 1 and -1, one for each hidden layer; ones by default.
    """
    widths = _check("configuration", problem, widths)
    vector = _vector("configuration", problem, vector)
    signs = [np.ones(d) for d in widths] if signs is None else signs
    _checks.kind("configuration(signs=...)", signs, (list, tuple))
    if [np.shape(r) for r in signs] != [(d,) for d in widths]:
        raise ValueError(
            "`configuration(signs=...)` must hold a vector for each of the hidden widths "
            f"{widths}, but has shapes {[np.shape(r) for r in signs]}."
        )
    unit = _checks.Must("be 1 or -1", lambda r: np.abs(r) == 1)
    signs = [
        _checks.real("configuration(signs=...)", r, unit, dtype=vector.dtype, ndim=1)
        for r in signs
    ]
    return _configuration(vector, _decays("configuration", problem, widths, decay), signs)


@jax.jit
def _configuration(vector, decays, signs):
    mean = jnp.exp(jnp.mean(jnp.log(decays)))
    norms = jnp.sqrt(mean * _scale(vector, len(signs)) / decays)
    length = _length(vector)
    first = vector / jnp.where(length > 0, length, 1)
    units = [first, *(r / r.size**0.5 for r in signs), jnp.ones(1, vector.dtype)]
    pairs = zip(norms, units[1:], units[:-1], strict=True)
    return DeepLinear(tuple(n * jnp.outer(then, before) for n, then, before in pairs))


def effective_loss(
    problem: Regression,
    widths: Sequence[int],
    vector: Float[Array, " in"],
    *,
    variance: Strengths = 0.0,
    decay: Strengths,
) -> Scalar:
    r"""$\Phi(v)$: the least loss of any weights whose end-to-end vector is `vector`."""
    widths = _check("effective_loss", problem, widths)
    vector = _vector("effective_loss", problem, vector)
    kept, log_decay = _reduce("effective_loss", problem, widths, variance, decay)
    return _loss(problem, vector, kept, log_decay, len(widths))


def shrinkage(problem: Regression, widths: Sequence[int], *, variance: Strengths) -> Scalar:
    r"""$\rho = \prod_i d_i / (d_i + \sigma_i^2)$, all that noise and widths do."""
    widths = _check("shrinkage", problem, widths, outputs=None, readout=True)
    return _reduce("shrinkage", problem, widths, variance, 1.0)[0]


def prediction_variance(
    problem: Regression,
    widths: Sequence[int],
    x: Float[Array, " in"] | None = None,
    *,
    variance: Strengths,
    decay: Strengths,
) -> Scalar:
    r"""The variance of the stochastic output at the global minimum.

    $(1/\rho - 1) (v \cdot x)^2$ at the input `x`; $(1/\rho - 1)\, v^\top A v$ on average
    over the data if there is none. Falls as $1/d$ for large widths, but first rises with
    noise and depth, before it vanishes where the minimum becomes the origin.
    """
    name = "prediction_variance"
    widths = _check(name, problem, widths)
    kept, log_decay = _reduce(name, problem, widths, variance, decay)
    v = _minimum(problem, kept, log_decay, **_depth(widths)).map
    square = v @ problem.covariance @ v
    if x is not None:
        square = (v @ _vector(name, problem, x, "x")) ** 2
    return (1 / kept - 1) * square


def origin_spectrum(
    problem: Regression, widths: Sequence[int], *, decay: Strengths
) -> Float[Array, " weights"]:
    r"""All eigenvalues of the Hessian at zero weights, in increasing order.

    For any number of outputs, and any noise. For $D \ge 2$ they are $2 \gamma_i$, once for
    each weight of layer $i$, whatever the data, so that the origin is a local minimum. For
    one hidden layer $\gamma_1 + \gamma_2 \pm \sqrt{(\gamma_1 - \gamma_2)^2 + 4 s_k^2}$ with
    the singular values $s_k$ of $E[y x^\top]$: a saddle iff $s_1^2 > \gamma_1 \gamma_2$.
    """
    widths = _check("origin_spectrum", problem, widths, outputs=None)
    return _origin(
        problem, _decays("origin_spectrum", problem, widths, decay), tuple(widths)
    )


@ft.partial(jax.jit, static_argnames="widths")
def _origin(problem, decays, widths):
    outputs, inputs = problem.target.shape
    counts = [a * b for a, b in it.pairwise([inputs, *widths, outputs])]
    if not widths:
        curvatures = decompositions.eigvalsh(problem.covariance) + decays[0]
        return jnp.repeat(2 * curvatures, outputs)
    if len(widths) > 1:
        return jnp.sort(jnp.repeat(2 * decays, np.array(counts)))
    singular = decompositions.svdvals(problem.target @ problem.covariance)
    root = jnp.sqrt((decays[0] - decays[1]) ** 2 + 4 * singular**2)
    mixed = jnp.concatenate([jnp.sum(decays) - root, jnp.sum(decays) + root])
    mixed = jnp.repeat(mixed, widths[0])
    alone = [widths[0] * (n - singular.size) for n in (inputs, outputs)]
    return jnp.sort(jnp.concatenate([mixed, jnp.repeat(2 * decays, np.array(alone))]))


class Transition(NamedTuple):
    r"""Where the landscape changes.

    Attributes:
        decay: The geometric mean $\gamma$ of the decays.
        size: $|v|$ there, of the solution that is not zero.
    """

    decay: Scalar
    size: Scalar


def critical_point(
    problem: Regression, widths: Sequence[int], *, variance: Strengths = 0.0
) -> Transition:
    r"""Where the global minimum jumps to the origin.

    For data with covariance $a I$ at
    $\gamma_c = (|g|^2 / D^2)^{D/(D+1)} (\rho (D-1) / a)^{(D-1)/(D+1)}$, from
    $|v| = \rho (|g| / a) (D-1)/D$; for all data proportional to $\rho^{(D-1)/(D+1)}$.
    Exactly $|g|$ for one hidden layer, where nothing jumps, and infinite for none.
    """
    widths = _check("critical_point", problem, widths)
    kept, _ = _reduce("critical_point", problem, widths, variance, 1.0)
    return _transition(problem, kept, **_depth(widths), top=False)


def spinodal_point(
    problem: Regression, widths: Sequence[int], *, variance: Strengths = 0.0
) -> Transition:
    r"""Above which the origin is the only stationary point, and only minimum.

    For covariance $a I$ at $\gamma_s = \gamma_c (D+1) / 4^{D/(D+1)}$, with
    $|v| = \rho (|g| / a) (D-1) / (2D)$; `critical_point` for fewer than two hidden layers.
    """
    widths = _check("spinodal_point", problem, widths)
    kept, _ = _reduce("spinodal_point", problem, widths, variance, 1.0)
    return _transition(problem, kept, **_depth(widths), top=True)


def escape_norm(
    problem: Regression,
    widths: Sequence[int],
    *,
    variance: Strengths = 0.0,
    decay: Strengths,
) -> Scalar:
    r"""The flow of an aligned start leaves the origin iff its layers are larger than this.

    For isotropic data, equal decays, and a start that is a `configuration` along $g$, all
    of whose layers have Frobenius norm $n$: the least $n$ from which the flow goes to the
    local minimum that is not zero. About $(\gamma / |g|)^{1/(D-1)}$ for weak decay; zero
    where the origin is a saddle, and infinite where it is the only minimum.

    Raises:
        ValueError: If data are not isotropic, or decays differ.
    """
    widths = _check("escape_norm", problem, widths)
    decays = _decays("escape_norm", problem, widths, decay)
    if _concrete(jnp.any(decays != decays[0])):
        raise ValueError(
            "`escape_norm(decay=...)` must be the same for all layers, which else change "
            f"their norms at different rates, but is {decays}."
        )
    _check_isotropic("escape_norm", problem)
    kept, log_decay = _reduce("escape_norm", problem, widths, variance, decay)
    found = _stationary(problem, kept, log_decay, **_depth(widths))
    barriers = jnp.where(jnp.isnan(found.loss) | found.stable, jnp.inf, found.scale)
    least = jnp.sqrt(jnp.min(barriers))
    if len(widths) < 2:
        least = jnp.where(jnp.isnan(found.loss[0]), jnp.inf, 0.0)
    unknown = jnp.isnan(kept + jnp.sum(problem.target) + jnp.sum(problem.covariance))
    return jnp.where(unknown, jnp.nan, least)


class Bounds(NamedTuple):
    """From below and from above."""

    lower: Scalar
    upper: Scalar


def norm_bounds(
    problem: Regression,
    widths: Sequence[int],
    *,
    variance: Strengths = 0.0,
    decay: Strengths,
) -> Bounds:
    r"""Between which $|v|^{1/(D+1)}$ of any solution but the origin lies, for $D \ge 1$.

    $(\gamma / |g|)^{1/(D-1)}$, or 0 for $D = 1$, and $(\rho |g| / a)^{1/(D+1)}$ with the
    smallest nonzero eigenvalue $a$ of $A$. The norm of each layer for equal decays; over
    the width the paper's $b$, if all widths are equal. With the largest eigenvalue, as the
    paper is remembered, the upper bound does not hold.
    """
    widths = _check("norm_bounds", problem, widths)
    if not widths:
        raise ValueError(
            "`norm_bounds(widths=...)` must name a hidden layer, but is empty."
        )
    given = _reduce("norm_bounds", problem, widths, variance, decay)
    return _bounds(problem, *given, **_depth(widths))


@ft.partial(jax.jit, static_argnames="kind")
def _bounds(problem, kept, log_decay, hidden, kind):
    curve = _Curve(problem, kept, hidden, kind)
    length, mean = _length(curve.signal), jnp.exp(log_decay)
    lower = (mean / length) ** (1 / (hidden - 1)) if kind > 1 else jnp.zeros_like(mean)
    upper = (kept * length / jnp.min(curve.variances)) ** (1 / (hidden + 1))
    return Bounds(lower, upper)


class Modes(NamedTuple):
    r"""The global minimum for several outputs.

    Attributes:
        values: The singular values of the end-to-end matrix, in the order of those of
            $E[y x^\top]$, whose singular vectors it has.
        loss: Its loss.
    """

    values: Float[Array, " modes"]
    loss: Scalar


def modes(
    problem: Regression,
    widths: Sequence[int],
    *,
    variance: Strengths = 0.0,
    decay: Strengths,
) -> Modes:
    r"""The global minimum for several outputs and isotropic data, where it is known.

    Without noise each singular value of $E[y x^\top]$ is on its own, and has a critical
    decay of its own, so that the rank of the minimum is the number of those that are above.
    With noise and one hidden layer all are lowered by one threshold. As many are kept as
    fit through the narrowest layer, the largest.

    Raises:
        ValueError: If data are not isotropic, or there are noise and more than one hidden
            layer. Where the noise is only known at run time the result is `nan`.
    """
    widths = _check("modes", problem, widths, outputs=None)
    _check_isotropic("modes", problem)
    traced = any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(variance))
    if len(widths) > 1 and not traced and np.any(np.asarray(variance) != 0):
        raise ValueError(
            "`modes` is known with noise for one hidden layer only, but `widths` is "
            f"{tuple(widths)} and `variance` {variance}."
        )
    reduced = _reduce("modes", problem, widths, variance, decay)
    return _modes(problem, *reduced, tuple(widths))


@ft.partial(jax.jit, static_argnames="widths")
def _modes(problem, kept, log_decay, widths):
    size = jnp.trace(problem.covariance) / problem.covariance.shape[0]
    signal = problem.target @ problem.covariance
    signals = decompositions.svdvals(signal)
    mean, hidden = jnp.exp(log_decay), len(widths)
    fits = jnp.arange(signals.size) < min([signals.size, *widths])
    if hidden == 1:
        ratio = 1 / kept - 1  # Of the variance of the noise to the width.
        values = _threshold(jnp.where(fits, signals, 0), ratio, mean) / size
    else:
        given = jnp.ones_like(mean), log_decay
        alone = lambda s: _minimum(_scalar(size, s), *given, **_depth(widths)).map[0]
        values = jnp.where(fits, jax.vmap(alone)(signals), 0)
        kept = jnp.where(kept == 1, kept, jnp.nan) if hidden else kept
    values = jnp.where(jnp.isnan(kept + log_decay), jnp.nan, values)
    powers = jax.vmap(lambda v: _scale(v[None], hidden))(values)
    excess = size * jnp.sum((values - signals / size) ** 2)
    noise = size * (1 / kept - 1) * jnp.sum(values) ** 2
    decayed = (hidden + 1) * mean * jnp.sum(powers)
    return Modes(values, problem.floor + excess + noise + decayed)


def _threshold(signals, ratio, decay):
    r"""$\max(s_k - \tau, 0)$ where $\tau$ is `decay` plus `ratio` times their sum."""
    counts = jnp.arange(1, signals.size + 1).astype(signals.dtype)
    levels = (decay + ratio * jnp.cumsum(signals)) / (1 + ratio * counts)
    # Those above their own level are the first ones.
    last = jnp.sum(signals > levels) - 1
    level = jnp.where(last < 0, signals[0], levels[jnp.maximum(last, 0)])
    return jnp.maximum(signals - level, 0)


def _scalar(variance, signal):
    """The regression of one number on another."""
    target = (signal / variance)[None, None]
    return Regression(target, variance[None, None], jnp.zeros_like(signal))


@ft.partial(jax.jit, static_argnames="kind")
def _minimum(problem, kept, log_decay, hidden, kind):
    curve = _Curve(problem, kept, hidden, kind)
    logs, there = _roots(curve.still, jax.lax.stop_gradient(log_decay))
    gains = jnp.where(there, jax.vmap(curve.still.gap)(logs), jnp.inf)
    best = jnp.argmin(gains)
    better = gains[best] < 0
    allowed = ~jnp.isnan(kept + jnp.sum(curve.signal))
    log = _settle(curve, logs[best], better, log_decay)
    vector = jnp.where(better, curve.map(log), jnp.where(allowed, 0, jnp.nan))
    trivial = ~better & allowed
    loss = _loss(problem, vector, kept, log_decay, hidden)
    return Minimum(loss, vector, _scale(vector, hidden), trivial)


@ft.partial(jax.jit, static_argnames="kind")
def _stationary(problem, kept, log_decay, hidden, kind):
    curve = _Curve(problem, kept, hidden, kind)
    logs, there = _roots(curve.still, jax.lax.stop_gradient(log_decay))
    order = jnp.argsort(jnp.where(there, logs, jnp.inf))

    def see(log, valid):
        log = _settle(curve, log, valid, log_decay)
        vector = curve.map(log)
        loss = _loss(problem, vector, kept, log_decay, hidden)
        stable = valid & (jax.grad(curve.log_decay)(log) > 0)
        blank = lambda x: jnp.where(valid, x, jnp.nan)
        return Stationary(blank(loss), blank(vector), blank(_scale(vector, hidden)), stable)

    return jax.vmap(see)(logs[order], there[order])


@ft.partial(jax.jit, static_argnames=("kind", "top"))
def _transition(problem, kept, hidden, kind, top):
    """The top of the curve, or where the loss along it is that of the origin."""
    curve = _Curve(problem, kept, hidden, kind)
    if kind < 2:
        length = _length(curve.signal)
        decay = length if kind else jnp.full_like(length, jnp.inf)
        none = jnp.where(jnp.isnan(kept), jnp.nan, 0.0)  # Of a noise that is none.
        return Transition(decay + none, jnp.zeros_like(length) + none)
    flat = jax.grad(curve.log_decay) if top else curve.gap
    log = _newton(flat, (_top if top else _crossing)(curve.still))
    return Transition(jnp.exp(curve.log_decay(log)), _length(curve.map(log)))


class _Curve(eqx.Module):
    r"""The curve of stationary points, by $\log \lambda$.

    In a basis of eigenvectors that is held fixed, and to first order in changes of the
    covariance, so that equal eigenvalues have derivatives.
    """

    signal: Array
    own: Array
    variances: Array
    axes: Array
    changes: Array | None
    kept: Scalar
    hidden: Scalar
    kind: int = eqx.field(static=True)

    def __init__(self, problem, kept, hidden, kind):
        covariance, dtype = problem.covariance, problem.covariance.dtype
        variances, axes = jax.lax.stop_gradient(decompositions.eigh(covariance))
        signal = axes.T @ (covariance @ problem.target[0])
        fixed = jax.lax.stop_gradient(signal)
        seen = variances > variances.size * jnp.finfo(dtype).eps * variances[-1]
        # Where there is no variance there is no signal, but there may come to be.
        self.signal = jnp.where(seen, fixed, 0) + signal - fixed
        changes = axes.T @ covariance @ axes
        self.changes = changes - jax.lax.stop_gradient(changes)
        self.own = jnp.where(seen, variances, 0)
        largest = jnp.where(jnp.any(seen), variances[-1], 1)
        self.variances = jnp.where(seen, variances, largest)
        self.axes, self.kept, self.hidden, self.kind = axes, kept, hidden, kind

    @property
    def still(self) -> "_Curve":
        """The same without derivatives."""
        plain = eqx.tree_at(lambda curve: curve.changes, self, None)
        return jax.lax.stop_gradient(plain)

    def solve(self, log: Scalar, right: Array) -> Array:
        r"""$(A + \lambda)^{-1}$ of a vector."""
        diagonal = self.own + jnp.exp(log)
        if self.changes is not None:
            right -= self.changes @ (right / diagonal)
        return right / diagonal

    def map(self, log: Scalar) -> Float[Array, " in"]:
        return self.kept * (self.axes @ self.solve(log, self.signal))

    @property
    def power(self) -> Scalar:
        return self.hidden / (self.hidden + 1)

    def log_decay(self, log: Scalar) -> Scalar:
        r"""$\log \gamma$, where $\gamma = \lambda |v|^{2D/(D+1)} / \rho$."""
        if self.kind == 0:
            return log
        ridge = self.solve(log, self.signal)
        square = ridge @ ridge
        noise = (2 * self.power - 1) * jnp.log(self.kept)
        scaled = log + self.power * jnp.log(jnp.where(square > 0, square, 1)) + noise
        return jnp.where(square > 0, scaled, -jnp.inf)

    def gap(self, log: Scalar) -> Scalar:
        """The loss above that of the origin, over the shrinkage."""
        ridge = self.solve(log, self.signal)
        return self.hidden * jnp.exp(log) * (ridge @ ridge) - self.signal @ ridge


def _roots(curve: _Curve, level: Scalar) -> tuple[Array, Array]:
    """Where its decay is at a level, between two of its extrema each, if at all."""
    low, high = jnp.min(curve.variances), jnp.max(curve.variances)
    # Over what it is for large ridges, and a signal of length one.
    length = jnp.log(norm(curve.signal))
    scale = 2 * curve.power * length + (2 * curve.power - 1) * jnp.log(curve.kept)
    reduced = level - scale
    if curve.kind == 0:
        points = jnp.stack([level - 1, level + 1])
    elif curve.kind == 1:  # It rises.
        ratio = jnp.exp(reduced)
        odds = jnp.log(ratio / jnp.where(ratio < 1, 1 - ratio, 1))
        points = jnp.stack([odds + jnp.log(low) - 1, odds + jnp.log(high) + 1])
    else:
        extrema = _extrema(curve)
        left = reduced + 2 * curve.power * jnp.log(low) - 1
        right = -reduced * (curve.hidden + 1) / (curve.hidden - 1) + 1
        ends = jnp.minimum(left, extrema[0]), jnp.maximum(right, extrema[-1])
        points = jnp.concatenate([ends[0][None], extrema, ends[1][None]])
    function = lambda log: curve.log_decay(log) - level
    signs = jax.vmap(function)(points) > 0
    return _halve(function, points[:-1], points[1:]), signs[1:] != signs[:-1]


def _extrema(curve: _Curve) -> Array:
    """Where it turns, of which there are fewer than twice the inputs."""
    rise = jax.grad(curve.log_decay)
    count = 2 * curve.variances.size - 1
    # For each input alone it turns at its variance times a number.
    logs = jnp.log(curve.variances) + jnp.log((curve.hidden + 1) / (curve.hidden - 1))
    grid = jnp.linspace(jnp.min(logs) - 0.1, jnp.max(logs) + 0.1, CELLS + 1)
    signs = jax.vmap(rise)(grid) > 0
    cells = jnp.nonzero(signs[1:] != signs[:-1], size=count, fill_value=-1)[0]
    found = _halve(rise, grid[cells], grid[jnp.where(cells < 0, -1, cells + 1)])
    return jnp.where(cells < 0, grid[-1], found)


def _top(curve: _Curve) -> Scalar:
    extrema = _extrema(curve)
    return extrema[jnp.argmax(jax.vmap(curve.log_decay)(extrema))]


def _crossing(curve: _Curve) -> Scalar:
    """Of all points with the loss of the origin that of largest decay.

    The loss turns where the decay does, so there is one between two extrema at most.
    """
    logs = jnp.log(curve.variances) - jnp.log(curve.hidden - 1)
    ends = jnp.min(logs) - 0.1, jnp.max(logs) + 0.1
    extrema = jnp.clip(_extrema(curve), *ends)
    points = jnp.concatenate([ends[0][None], extrema, ends[1][None]])
    signs = jax.vmap(curve.gap)(points) > 0
    found = _halve(curve.gap, points[:-1], points[1:])
    levels = jax.vmap(curve.log_decay)(found)
    return found[jnp.argmax(jnp.where(signs[1:] != signs[:-1], levels, -jnp.inf))]


def _settle(curve: _Curve, log: Scalar, valid: Array, log_decay: Scalar) -> Scalar:
    """A root once more, now with derivatives; if there is none, anything."""
    log = jnp.where(valid, log, 0)
    off = lambda log: jnp.where(valid, curve.log_decay(log) - log_decay, log)
    return _newton(off, log)


def _halve(function: Callable, lower: Array, upper: Array) -> Array:
    """Where a function loses the sign that it has at `lower`, in many intervals at once."""
    signs = jax.vmap(function)(lower) > 0

    def halve(_, interval):
        lower, upper = interval
        middle = (lower + upper) / 2
        same = (jax.vmap(function)(middle) > 0) == signs
        return jnp.where(same, middle, lower), jnp.where(same, upper, middle)

    lower, upper = jax.lax.fori_loop(0, HALVINGS, halve, (lower, upper))
    return (lower + upper) / 2


def _newton(function: Callable[[Scalar], Scalar], log: Scalar) -> Scalar:
    """Two steps, which make a root exact, and give it derivatives."""
    for _ in range(2):
        value, slope = jax.value_and_grad(function)(log)
        flat = slope == 0
        step = jnp.where(flat, 0, value / jnp.where(flat, 1, slope))
        log = log - jnp.clip(step, -1e-3, 1e-3)
    return log


def _loss(problem, vector, kept, log_decay, hidden):
    r"""$\Phi(v)$, with the error as its floor, and what is above."""
    gap, covariance = vector - problem.target[0], problem.covariance
    noise = (1 / kept - 1) * (vector @ covariance @ vector)
    decayed = (hidden + 1) * jnp.exp(log_decay) * _scale(vector, hidden)
    return problem.floor + gap @ covariance @ gap + noise + decayed


def _length(vector):
    """The norm, whose slope at zero is zero."""
    square = vector @ vector
    zero = square == 0
    return jnp.where(zero, 0, jnp.sqrt(jnp.where(zero, 1, square)))


def _scale(vector, hidden):
    square = vector @ vector
    zero = square == 0
    return jnp.where(zero, 0, jnp.where(zero, 1, square) ** (1 / (hidden + 1)))


def _decays(name, problem, widths, decay):
    values = per_layer(decay, len(widths) + 1, f"{name}(decay=...)", positive=True)
    return values.astype(problem.covariance.dtype)


def _reduce(name, problem, widths, variance, decay) -> tuple[Scalar, Scalar]:
    r"""$\rho$ and $\log \gamma$, all that the minimum knows of these.

    Both are `nan` where a strength that is only known at run time is out of range.
    """
    variances = per_layer(variance, len(widths), f"{name}(variance=...)")
    variances = variances.astype(problem.covariance.dtype)
    sizes = jnp.asarray(widths, variances.dtype)
    return _reduced(sizes, variances, _decays(name, problem, widths, decay))


@jax.jit
def _reduced(sizes, variances, decays):
    kept, log_decay = jnp.prod(sizes / (sizes + variances)), jnp.mean(jnp.log(decays))
    allowed = jnp.all(variances >= 0) & jnp.all(decays > 0)
    return jnp.where(allowed, kept, jnp.nan), jnp.where(allowed, log_decay, jnp.nan)


def _depth(widths) -> dict[str, Any]:
    """One program for all networks of two hidden layers or more."""
    return {"hidden": float(len(widths)), "kind": min(len(widths), 2)}


def _concrete(condition) -> bool:
    """Whether it holds, if that is known while tracing."""
    return not isinstance(condition, Tracer) and bool(condition)


def _check(
    name: str,
    problem: Regression,
    widths: Sequence[int],
    *,
    outputs: int | None = 1,
    readout: bool = False,
) -> tuple[int, ...]:
    """The widths, if the paper treats this problem."""
    needs_regression(f"{name}(problem=...)", problem, readout=readout)
    widths = _checks.widths(f"{name}(widths=...)", widths)
    if outputs == 1 and problem.target.shape[0] != 1:
        raise ValueError(
            f"`{name}(problem=...)` must have one output, which Ziyin, Li & Meng (2022) "
            f"treat, but has {problem.target.shape[0]}. See `modes` and `origin_spectrum` "
            "for several."
        )
    _check_covariance(problem)
    return widths


def _vector(name, problem, vector, what="vector"):
    """Numbers for each input, that may be `nan`."""
    name, dtype = f"{name}({what}=...)", problem.covariance.dtype
    vector = _checks.real(name, vector, _checks.REAL, dtype=dtype, ndim=1)
    if vector.shape != problem.covariance.shape[:1]:
        raise ValueError(
            f"`{name}` must have the problem's {len(problem.covariance)} inputs, but has "
            f"shape {vector.shape}."
        )
    return vector


def _check_covariance(problem):
    if isinstance(problem.covariance, Tracer):
        return
    covariance = np.asarray(problem.covariance)
    if not np.isfinite(covariance).all():  # What follows from it is `nan`.
        return
    values = np.linalg.eigvalsh(covariance)
    if values[0] < -(np.finfo(values.dtype).eps ** 0.5) * abs(values[-1]):
        raise ValueError(
            "The covariance of the problem must be positive semidefinite, but its least "
            f"eigenvalue is {values[0]:.4g}. Second moments of data always are."
        )


def _check_isotropic(name: str, problem: Regression):
    covariance = problem.covariance
    size = jnp.trace(covariance) / covariance.shape[0]
    gap = jnp.max(jnp.abs(covariance - size * jnp.eye(len(covariance), dtype=size.dtype)))
    if _concrete(gap > jnp.finfo(covariance.dtype).eps ** 0.5 * size):
        raise ValueError(
            f"`{name}` needs data whose covariance is a multiple of the identity: use "
            "`white, _ = whiten(problem)`."
        )
