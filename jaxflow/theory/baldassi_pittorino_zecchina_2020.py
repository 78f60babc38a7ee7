r"""Baldassi, Pittorino & Zecchina (2020), "Shaping the learning landscape in neural networks
around wide flat minima" (PNAS 117, 161-170, arXiv 1905.07833).

Setting: $\alpha N$ random patterns with random labels, stored without error by $N$ weights
in the limit $N \to \infty$. The weights are real, with a fixed norm in each unit
(`"spherical"`), or $\pm 1$ (`"binary"`). The device is a perceptron, or a tree committee of
infinitely many units; it enters by its overlap kernel alone. A distance is
$d = (1 - S)/2$ for weights of overlap $S$; an entropy is the logarithm of a volume of
weights over $N$. Fields have variance one, and the cross-entropy of strength $\gamma$ is
$f_\gamma(x) = \ln(1 + e^{-2 \gamma x}) / 2 \gamma$, of the output $x = s \lambda$ that is
the field times the scale of the device.

The paper claims that there are wide flat minima of the number of errors, that minimisers of
cross-entropy are found there, and that there are devices without them. Its formulas could
not be compared: all that is here was derived for this library, by the replica method with
symmetric replicas unless it is said otherwise, and is tested against known constants, an
independent implementation, and simulations. It is exact for spherical perceptrons with
margin zero or more, and an approximation where there are many states: for spherical
committees near their capacity, and for binary weights.

Results are differentiable in nothing, and can be batched with `jax.vmap` in all that is a
number. What has no solution is `nan`.
"""

import abc
import functools as ft
from collections.abc import Callable
from typing import Literal, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.nn import log_sigmoid, logsumexp, sigmoid
from jax.scipy.special import betainc, log_ndtr, ndtr, ndtri
from jaxtyping import Array, ArrayLike, Bool, Float, Scalar, ScalarLike

Weights = Literal["spherical", "binary"]


class AbstractKernel(eqx.Module):
    r"""What a device makes of overlaps: $\kappa(x) = K(x) / K(1)$.

    $K(x)$ is the covariance of the outputs $g(u)$, $g(v)$ of two units whose fields have
    variance one and correlation $x$. With infinitely many units, half of them counted
    negative, the output is Gaussian, and the device is a perceptron of overlaps
    $\kappa(x)$. The `scale` is $s = \sqrt{K(1)}$, the standard deviation of the output, and
    the `slope` $\kappa'(1)$, infinite for units that jump.
    """

    scale: eqx.AbstractVar[ScalarLike]
    slope: eqx.AbstractVar[ScalarLike]

    @abc.abstractmethod
    def __call__(self, overlap: ScalarLike) -> Scalar:
        r"""$\kappa$ of an overlap."""


class Perceptron(AbstractKernel):
    r"""One unit: $\kappa(x) = x$."""

    def __call__(self, overlap: ScalarLike) -> Scalar:
        return jnp.asarray(overlap)

    @property
    def scale(self) -> float:
        return 1.0

    @property
    def slope(self) -> float:
        return 1.0


class SignUnits(AbstractKernel):
    r"""Infinitely many units with output $\pm 1$: $\kappa(x) = (2/\pi) \arcsin x$."""

    def __call__(self, overlap: ScalarLike) -> Scalar:
        return 2 / np.pi * jnp.arcsin(overlap)

    @property
    def scale(self) -> float:
        return 1.0

    @property
    def slope(self) -> float:
        return np.inf


class ReLUUnits(AbstractKernel):
    r"""Infinitely many rectified units.

    $\kappa(x) = [\sqrt{1 - x^2} + x (\pi - \arccos x) - 1] / (\pi - 1)$.
    """

    def __call__(self, overlap: ScalarLike) -> Scalar:
        turn = jnp.pi - jnp.arccos(overlap)
        return (jnp.sqrt(1 - overlap**2) + overlap * turn - 1) / (np.pi - 1)

    @property
    def scale(self) -> float:
        return ((np.pi - 1) / (2 * np.pi)) ** 0.5

    @property
    def slope(self) -> float:
        return np.pi / (np.pi - 1)


class SmoothUnits(AbstractKernel):
    r"""Infinitely many units of any smooth activation $g$.

    $K(x) = \sum_{k \ge 1} c_k^2 x^k$ with the coefficients of $g$ in normalised Hermite
    polynomials. For $\tanh$ it is exact to rounding; units with a kink have their own
    kernels.

    Args:
        activation: A function of arrays, such as `jnp.tanh`.
    """

    powers: Float[Array, " order"]
    scale: Float[Array, ""]

    def __init__(self, activation: Callable[[Array], Array], *, order: int = 100):
        nodes, weights = np.polynomial.hermite_e.hermegauss(order)
        before, now = np.zeros(order), np.sqrt(weights / weights.sum())
        values = np.asarray(activation(jnp.asarray(nodes))) * now
        powers = []
        for k in range(1, order):
            before, now = now, (nodes * now - (k - 1) ** 0.5 * before) / k**0.5
            powers.append((values @ now) ** 2)
        variance = np.sum(powers)
        if not variance > 0:
            raise ValueError(
                "`SmoothUnits(activation=...)` must vary, but its variance for normal "
                f"inputs is {variance}. Pass a function of arrays, such as `jnp.tanh`."
            )
        self.powers = jnp.asarray(powers / variance)
        self.scale = jnp.asarray(variance**0.5)

    def __call__(self, overlap: ScalarLike) -> Scalar:
        return overlap * jnp.polyval(self.powers[::-1], overlap)

    @property
    def slope(self) -> Scalar:
        return self.powers @ jnp.arange(1.0, self.powers.size + 1)


class Typical(NamedTuple):
    r"""Solutions as they are counted.

    Attributes:
        overlap: $q$ of two of them; `nan` if there are none.
        entropy: The logarithm of their volume, or number, over $N$.
        conjugate: $\hat q$ of binary weights; `nan` for spherical ones.
    """

    overlap: Scalar
    entropy: Scalar
    conjugate: Scalar


def gardner(
    kernel: AbstractKernel,
    load: ScalarLike,
    *,
    margin: ScalarLike = 0.0,
    weights: Weights = "spherical",
) -> Typical:
    r"""Typical solutions, at which fields are at least `margin` $= \kappa_0$.

    With $E(q) = \int Dt \ln H((\kappa_0 - \sqrt{\kappa(q)}\, t) / \sqrt{1 - \kappa(q)})$
    the stationary points of
    $\frac12 [\ln(1-q) + q/(1-q)] + \alpha E(q)$, and for binary weights of
    $-\frac12 \hat q (1-q) + \int Dz \ln 2 \cosh(\sqrt{\hat q} z) + \alpha E(q)$, where an
    entropy below zero says that there are none.

    Args:
        kernel: The device.
        load: Patterns $\alpha$ for each weight.
        margin: What fields must exceed.
        weights: Real on a sphere, or binary.

    Raises:
        ValueError: If the load is not positive, or the weights are neither.
    """
    _check("gardner", weights=weights, load=load)
    return _gardner(kernel, *_numbers(load, margin), weights)


@eqx.filter_jit
def _gardner(kernel, load, margin, weights):
    """By the overlap at which the load is as given."""
    excess = lambda a: _load(kernel, _free(a, weights), margin) - load
    at = _bisect(excess, *_LIMITS[weights])
    free = _free(at, weights)
    entropy = free.entropy + load * _typical_energy(kernel, free.overlap, margin)
    found = Typical(free.overlap, entropy, free.conjugate)
    there = jnp.abs(excess(at)) < 1e-6 * load
    return jax.tree.map(lambda x: jnp.where(there, x, jnp.nan), found)


class _Free(NamedTuple):
    """Weights of some overlap if there are no patterns, and what draws them apart."""

    overlap: Scalar
    force: Scalar
    entropy: Scalar
    conjugate: Scalar


# Of the logit of the overlap of spherical weights, the logarithm of the conjugate of others.
_LIMITS = {"spherical": (-30.0, 25.0), "binary": (-30.0, 7.5)}


def _free(a, weights):
    if weights == "spherical":
        q, rest = sigmoid(a), sigmoid(-a)
        return _Free(q, q / rest**2, (jnp.log(rest) + q / rest) / 2, jnp.nan * a)
    conjugate, root = jnp.exp(a), jnp.exp(a / 2)
    q = _mean(lambda z: jnp.tanh(root * z) ** 2)
    entropy = _mean(lambda z: _log_2_cosh(root * z)) - conjugate * (1 - q) / 2
    return _Free(q, conjugate, entropy, conjugate)


def _typical_energy(kernel, q, margin):
    shared = kernel(q)
    field = lambda t: (jnp.sqrt(shared) * t - margin) / jnp.sqrt(1 - shared)
    return _mean(lambda t: log_ndtr(field(t)))


def _load(kernel, free, margin):
    """At which solutions have this overlap."""
    return -free.force / (2 * jax.grad(_typical_energy, 1)(kernel, free.overlap, margin))


def capacity(
    kernel: AbstractKernel, *, margin: ScalarLike = 0.0, weights: Weights = "spherical"
) -> Scalar:
    r"""The largest load with solutions.

    Spherical weights: $\kappa'(1) / [(1 + \kappa_0^2) \Phi(\kappa_0) + \kappa_0
    G(\kappa_0)]$, where $q \to 1$; infinite for units that jump. Binary weights: where the
    entropy of `gardner` is zero.
    """
    _check("capacity", weights=weights)
    [margin] = _numbers(margin)
    if weights == "binary":
        return _binary_capacity(kernel, margin)
    density = jnp.exp(-(margin**2) / 2) / np.sqrt(2 * np.pi)
    return kernel.slope / ((1 + margin**2) * ndtr(margin) + margin * density)


@eqx.filter_jit
def _binary_capacity(kernel, margin):
    def deficit(a):
        free = _free(a, "binary")
        load = _load(kernel, free, margin)
        return -free.entropy - load * _typical_energy(kernel, free.overlap, margin)

    at = _bisect(deficit, *_LIMITS["binary"])
    return _load(kernel, _free(at, "binary"), margin)


class OneStep(NamedTuple):
    r"""A capacity with one step of broken symmetry.

    Attributes:
        load: The capacity.
        overlap: $q_0$ of solutions in different clusters.
        break_point: $\tilde m = m / (1 - q_1)$ where both go to zero.
    """

    load: Scalar
    overlap: Scalar
    break_point: Scalar


def capacity_one_step(kernel: AbstractKernel) -> OneStep:
    r"""The capacity of spherical weights, with one step of broken symmetry.

    $$ \alpha_c = \min_{q_0, \tilde m} \frac{
       \frac12 \left[\ln(1 + \tilde m (1-q_0)) + \frac{\tilde m q_0}
       {1 + \tilde m (1 - q_0)}\right]}{-\int Dt \ln \left[\Phi(x) +
       c^{-1/2} e^{-(c - 1) x^2 / 2c}\, \Phi(-x / \sqrt c)\right]} $$

    with $x = \sqrt{\kappa(q_0)}\, t / \sqrt{1 - \kappa(q_0)}$ and
    $c = 1 + \tilde m (1 - \kappa(q_0)) / \kappa'(1)$. Below that of `capacity` where one
    cluster is not enough; a perceptron has one, so there is no minimum, which is `nan`.

    Raises:
        ValueError: If units jump: their capacity diverges with their number.
    """
    if not isinstance(kernel.slope, Tracer) and not np.isfinite(kernel.slope):
        raise ValueError(
            f"`capacity_one_step` needs a finite `slope`, but that of {kernel} is "
            f"{kernel.slope}: its capacity diverges with the number of units. See "
            "`committee_capacity` for finitely many."
        )
    return _capacity_one_step(kernel)


@eqx.filter_jit
def _capacity_one_step(kernel):
    def log_load(a):
        q, ratio = sigmoid(a[0]), jnp.exp(a[1])
        shared, open_ = kernel(q), 1 + ratio * (1 - q)
        wide = 1 + ratio * (1 - kernel(q)) / kernel.slope

        def log_volume(t):
            x = jnp.sqrt(shared / (1 - shared)) * t
            spread = -(wide - 1) / wide * x**2 / 2 - jnp.log(wide) / 2
            return jnp.logaddexp(log_ndtr(x), spread + log_ndtr(-x / jnp.sqrt(wide)))

        volume = (jnp.log(open_) + ratio * q / open_) / 2
        return jnp.log(volume) - jnp.log(-_mean(log_volume))

    grid = jnp.stack(jnp.meshgrid(jnp.linspace(-2, 5, 15), jnp.linspace(-2, 6, 17)), -1)
    starts = grid.reshape(-1, 2)
    start = starts[jnp.argmin(jax.vmap(log_load)(starts))]
    point, slope = _stationary(jax.grad(log_load), start)
    found = OneStep(jnp.exp(log_load(point)), sigmoid(point[0]), jnp.exp(point[1]))
    return jax.tree.map(lambda x: jnp.where(slope < 1e-9, x, jnp.nan), found)


def committee_capacity(hidden: int) -> Scalar:
    r"""The capacity of a tree committee of `hidden` $= K$ sign units, symmetric replicas.

    One over the mean square displacement of the fields that gives the majority the right
    sign, by the units of least cost:
    $K \int_0^\infty Dx\, x^2\, P[\mathrm{Bin}(K-1, \Phi(x)) \le (K-1)/2]$.

    Raises:
        ValueError: If the number of units is not odd.
    """
    _check("committee_capacity", hidden=hidden)
    half = (hidden - 1) // 2
    nodes, weights = _normal(801)
    few = betainc(half, half + 1.0, ndtr(-nodes)) if half else jnp.ones_like(nodes)
    square = jnp.where(nodes > 0, nodes**2, 0)
    return 1 / (hidden * weights @ (few * square))


class Minimiser(NamedTuple):
    r"""Weights of least cross-entropy.

    Attributes:
        error: The fraction of patterns that they get wrong.
        energy: The mean cross-entropy $f_\gamma$ of a pattern.
        overlap: $q$ of two minimisers; one for spherical weights.
        log_stiffness: $\ln \chi$ for spherical weights, where $\beta (1 - q) \to \chi$ as
            $\beta \to \infty$, and for binary ones $\ln \beta$ where they freeze.
        conjugate: $\hat q$ of binary weights; `nan` for spherical ones.
    """

    error: Scalar
    energy: Scalar
    overlap: Scalar
    log_stiffness: Scalar
    conjugate: Scalar


def cross_entropy_minimiser(
    kernel: AbstractKernel,
    load: ScalarLike,
    strength: ScalarLike,
    *,
    weights: Weights = "spherical",
) -> Minimiser:
    r"""The minimiser of cross-entropy of this `strength` $\gamma$, at fixed norm.

    Spherical weights: fields $z$ of variance one become
    $\lambda^\star(z) = \arg\min (\lambda - z)^2 / 2 \chi + f_\gamma(s \lambda)$ with
    $\alpha \int Dz (\lambda^\star - z)^2 = \kappa'(1)$, and the error is $H(\chi s / 2)$.

    Raises:
        ValueError: If load or strength are not positive, or units jump and the weights are
            spherical: then symmetric replicas have no such limit.
    """
    _check_reference("cross_entropy_minimiser", kernel, load, strength, weights)
    load, strength = _numbers(load, strength)
    return _minimiser(kernel, load, strength, weights)


@eqx.filter_jit
def _minimiser(kernel, load, strength, weights):
    loss = _CrossEntropy(strength, jnp.asarray(kernel.scale, float))
    if weights == "binary":
        return _frozen(kernel, load, loss)
    nodes, density = _normal(801)
    log_chi = _log_stiffness(loss, load, kernel.slope)
    chi = jnp.exp(log_chi)
    energy = density @ loss(nodes + _pull(loss, nodes, log_chi))
    blank = jnp.full_like(chi, jnp.nan)
    error = ndtr(-chi * loss.scale / 2)
    return Minimiser(error, energy, jnp.ones_like(chi), log_chi, blank)


def _frozen(kernel, load, loss):
    """Where the entropy of weights drawn by cross-entropy is zero."""

    def energy(q, log_beta):
        shared = kernel(q)
        state = lambda z: _log_partition(
            loss, jnp.sqrt(shared) * z, 1 - shared, jnp.exp(log_beta)
        )
        return load * _mean(state, 101)

    def saddle(log_beta):
        def rising(a):
            free = _free(a, "binary")
            return free.force / 2 + jax.grad(energy)(free.overlap, log_beta)

        return _free(_bisect(rising, *_LIMITS["binary"], 40), "binary")

    def deficit(log_beta):
        free = saddle(log_beta)
        value, slope = jax.value_and_grad(energy, 1)(free.overlap, log_beta)
        return slope - value - free.entropy

    log_beta = _bisect(deficit, -2.0, 20.0, 40)
    free = saddle(log_beta)
    beta, shared = jnp.exp(log_beta), kernel(free.overlap)
    mean_loss = -jax.grad(energy, 1)(free.overlap, log_beta) / (load * beta)

    def wrong(z):
        nodes, log_weights = _tilted(loss, jnp.sqrt(shared) * z, 1 - shared, beta)
        return jnp.sum(jnp.where(nodes < 0, jnp.exp(log_weights-logsumexp(log_weights)), 0))

    error = _mean(wrong, 101)
    return Minimiser(error, mean_loss, free.overlap, log_beta, free.conjugate)


class _CrossEntropy(eqx.Module):
    strength: Scalar
    scale: Scalar

    def __call__(self, field):
        x = 2 * self.strength * self.scale * field
        return -log_sigmoid(x) / (2 * self.strength)

    def log_slope(self, field):
        x = 2 * self.strength * self.scale * field
        return jnp.log(self.scale) + log_sigmoid(-x)


class _Probit(eqx.Module):
    r"""$-\ln H(-\lambda / w)$."""

    width: Scalar

    def __call__(self, field):
        return -log_ndtr(field / self.width)

    def log_slope(self, field):
        x = field / self.width
        density = -(x**2) / 2 - np.log(2 * np.pi) / 2
        return density - log_ndtr(x) - jnp.log(self.width)


def _log_stiffness(loss, load, total, width=0.0):
    r"""Where $\alpha \int Dz\, e^2 (1 + w/\chi)^2 = \kappa'$ for the pull $e$."""
    nodes, density = _normal(801)

    def excess(log_stiffness):
        pull = _pull(loss, nodes, log_stiffness)
        return load * density @ (pull * (1 + width * jnp.exp(-log_stiffness))) ** 2 - total

    return _bisect(excess, -20.0, 2000.0)


def _pull(loss, field, log_stiffness):
    r"""The $e > 0$ at which $e = \chi \cdot$ minus the slope of the loss at $z + e$."""
    short = lambda e: jnp.log(e) - log_stiffness - loss.log_slope(field + e)
    return _bisect(short, jnp.zeros_like(field), jnp.full_like(field, 60.0))


def _tilted(loss, mean, variance, strength, count=81):
    r"""Normal fields of weights $e^{-\beta f}$: points, and logarithms of their measure.

    The exponent is curved at least as that of the normal variable everywhere, so points
    are about its top, as dense as it is steep there, and as sparse as that far away.
    """
    fixed = jax.lax.stop_gradient
    centre, spread = fixed(mean), fixed(jnp.sqrt(variance))
    log_stiffness = jnp.log(strength) + 2 * jnp.log(spread)
    top = fixed(centre + _pull(loss, centre, log_stiffness))
    bend = fixed(jnp.exp(log_stiffness) * jax.grad(jax.grad(loss))(top))
    narrow = 1 / jnp.sqrt(1 + bend)
    reach = jnp.arcsinh(8.5 / narrow)
    steps = jnp.linspace(-1.0, 1.0, count) * reach
    fields = top + spread * narrow * jnp.sinh(steps)
    lengths = jnp.log(spread * narrow * jnp.cosh(steps) * 2 * reach / (count - 1))
    normal = -((fields - mean) ** 2) / (2 * variance) - jnp.log(2 * np.pi * variance) / 2
    return fields, lengths + normal - strength * loss(fields)


def _log_partition(loss, mean, variance, strength):
    return logsumexp(_tilted(loss, mean, variance, strength)[1])


class LocalEntropy(NamedTuple):
    r"""Solutions at given distances from a reference.

    Attributes:
        entropy: The logarithm of their volume, or number, over $N$.
        normalised: The same without what it is if there are no patterns, zero at most.
        overlap: $p$ of two of them.
        cross: $t$ of one of them and another reference, for the same patterns, or for
            spherical minimisers the limit of $(S - t) / (1 - q)$.
        residual: The largest slope of the entropy in these, zero where they are found.
        converged: Whether they are. Else all but `residual` are `nan`.
    """

    entropy: Array
    normalised: Array
    overlap: Array
    cross: Array
    residual: Array
    converged: Array


def franz_parisi(
    kernel: AbstractKernel,
    load: ScalarLike,
    distance: ArrayLike,
    *,
    strength: ScalarLike | None = None,
    weights: Weights = "spherical",
) -> LocalEntropy:
    r"""The entropy of solutions around one reference (Franz & Parisi, 1995).

    Raises:
        ValueError: If load or strength are not positive, a distance is not between 0 and
            1/2, or there is no such minimiser, see `cross_entropy_minimiser`.
    """
    _check("franz_parisi", weights=weights, load=load, distance=distance)
    overlap = 1 - 2 * jnp.asarray(distance, float)
    [load] = _numbers(load)
    if strength is not None:
        _check_reference("franz_parisi", kernel, load, strength, weights)
        [strength] = _numbers(strength)
    found = _franz_parisi(kernel, load, overlap.ravel(), strength, weights)
    return jax.tree.map(lambda x: x.reshape(overlap.shape), found)


@eqx.filter_jit
def _franz_parisi(kernel, load, overlaps, strength, weights):
    q = _gardner(kernel, load, jnp.zeros_like(load), weights).overlap
    if strength is None:
        reference = _typical(kernel, q)
        solve = lambda S: _around_typical(kernel, q, load, S, reference)
    else:
        loss = _CrossEntropy(strength, jnp.asarray(kernel.scale, float))
        z, weight = _normal(801)
        reference = _Reference(z, _pull(loss, z, _log_stiffness(loss, load, kernel.slope))[:,None], weight[:,None])
        solve = lambda S: _around_ground(kernel, load, S, reference)
    return jax.vmap(solve)(overlaps)


class _Reference(eqx.Module):
    """Fields of a reference: what replicas share, what is its own, and their weights."""

    shared: Array
    own: Array
    weight: Array

    def energy(self, shared, own, noise, rest):
        """Mean logarithm of the volume of fields that are positive."""
        nodes, weights = np.polynomial.hermite_e.hermegauss(24)
        mean = shared * self.shared[:, None] + own * self.own
        volume = lambda y: self.weight * log_ndtr(
            (mean + jnp.sqrt(noise) * y) / jnp.sqrt(rest)
        )
        volumes = jax.vmap(lambda y: jnp.sum(volume(y)))(jnp.asarray(nodes))
        return jnp.asarray(weights / weights.sum()) @ volumes

NX, NZ = 40, 101

def _typical(kernel, q):
    z, weight = _normal(NZ)
    nodes, lengths = np.polynomial.legendre.leggauss(NX)
    shared, rest = kernel(q), 1 - kernel(q)
    mass = ndtr(jnp.sqrt(shared / rest) * z)
    share = (1 + jnp.asarray(nodes)) / 2
    own = -ndtri(jnp.maximum(share[None] * mass[:, None], 1e-300))
    return _Reference(jnp.sqrt(shared) * z, jnp.sqrt(rest) * own, weight[:, None]*jnp.asarray(lengths)[None]/2)


def _around_typical(kernel, q, load, S, reference):
    def order(x):
        t = q * S + jnp.sqrt(q * (1 - q) * (1 - S**2)) * jnp.tanh(x[0]/2)
        base = t**2 / q + (S - t) ** 2 / (1 - q)
        return base + sigmoid(x[1]) * (1 - base), t
    def energy(p, t):
        shared, own, other, apart = map(kernel, (q, S, t, p))
        noise = apart - other**2/shared - (own-other)**2/(1-shared)
        return reference.energy(other/shared, (own-other)/(1-shared), noise, 1-apart)
    def function(x):
        p, t = order(x)
        s = (S**2 - t**2 - q * (S - t) ** 2 / (1 - q)) / (1 - q)
        return (jnp.log1p(-p) + (p - s) / (1 - p)) / 2 + load * energy(p, t)
    return _finish(function, jnp.array([.5,-1.]), order, S)

def _around_ground(kernel, load, S, reference):
    def order(x):
        return S**2 + sigmoid(x[1])*(1-S**2), S + x[0]*jnp.sqrt(1-S**2)
    def energy(p, tau):
        return reference.energy(kernel(S), jax.grad(kernel)(S)*tau/kernel.slope, kernel(p)-kernel(S)**2, 1-kernel(p))
    def function(x):
        p, tau = order(x)
        s = 2 * S * tau - tau**2
        return (jnp.log1p(-p) + (p - s) / (1 - p)) / 2 + load * energy(p, tau)
    return _finish(function, jnp.array([-.1,-3.]), order, S)

def _finish(function, start, order, S):
    x, residual = _stationary(jax.grad(function), start)
    p, t = order(x)
    entropy = function(x)
    ok = (residual < 1e-9) & jnp.all(x<25)
    free = jnp.log1p(-S**2)/2
    out = [jnp.where(ok, v, jnp.nan) for v in (entropy, entropy-free, p, t)]
    return LocalEntropy(*out, residual, ok)


def _mean(function: Callable[[Scalar], Scalar], count: int = 801) -> Scalar:
    """Of a function of a normal variable, on a uniform grid."""
    nodes, weights = _normal(count)
    return weights @ jax.vmap(function)(nodes)


def _normal(count):
    nodes = np.linspace(-8.5, 8.5, count)
    weights = np.exp(-(nodes**2) / 2)
    return jnp.asarray(nodes), jnp.asarray(weights / weights.sum())


def _bisect(rising: Callable[[Array], Array], low, high, count: int = 60) -> Array:
    """Where a function passes zero upwards."""

    def halve(_, ends):
        low, high = ends
        middle = (low + high) / 2
        above = rising(middle) > 0
        return jnp.where(above, low, middle), jnp.where(above, middle, high)

    low, high = jax.lax.fori_loop(0, count, halve, (jnp.asarray(low), jnp.asarray(high)))
    return (low + high) / 2


def _stationary(slope, start, *, steps=100):
    """Where a vector function is zero, by damped Newton steps, and what is left of it."""
    look = jax.jacfwd(lambda x: (slope(x),) * 2, has_aux=True)

    def step(state):
        count, trial, point, (matrix, slopes), damping = state
        seen = look(trial)
        better = jnp.sum(seen[1] ** 2) < jnp.sum(slopes**2)
        choose = ft.partial(jax.tree.map, ft.partial(jnp.where, better))
        point, seen = choose((trial, seen), (point, (matrix, slopes)))
        damping *= jnp.where(better, 0.1, 10)
        square = seen[0].T @ seen[0]
        ridge = damping * jnp.diag(jnp.diag(square))
        trial = point - jnp.linalg.solve(square + ridge, seen[0].T @ seen[1])
        return count + 1, trial, point, seen, damping

    def busy(state):
        count, _, _, (_, slopes), damping = state
        return (count < steps) & (damping < 1e9) & (jnp.max(jnp.abs(slopes)) > 1e-13)

    unseen = jnp.eye(start.size), jnp.full_like(start, jnp.inf)
    state = 0, start, start, unseen, jnp.asarray(1e-2)
    _, _, point, (_, slopes), _ = jax.lax.while_loop(busy, step, state)
    return point, jnp.max(jnp.abs(slopes))


def _log_2_cosh(x):
    return jnp.logaddexp(x, -x)


def _numbers(*values):
    """Of the default precision."""
    return [jnp.asarray(x, float) for x in values]


def _check(name, *, weights="spherical", **given):
    if weights not in ("spherical", "binary"):
        raise ValueError(
            f'`{name}(weights=...)` must be "spherical" or "binary", not {weights!r}.'
        )
    for key, value in given.items():
        if isinstance(value, Tracer):
            continue
        value = np.asarray(value)
        if key == "hidden" and not (value > 0 and value % 2 == 1):
            raise ValueError(
                f"`{name}(hidden=...)` must be odd, so that there is a majority, but is "
                f"{value}."
            )
        if key in ("load", "strength") and not np.all(value > 0):
            raise ValueError(f"`{name}({key}=...)` must be positive, but is {value}.")
        if key == "distance" and not np.all((value > 0) & (value < 0.5)):
            raise ValueError(
                f"`{name}(distance=...)` must be between 0 and 1/2, where weights are equal "
                f"or have no overlap, but is {value}."
            )


def _check_reference(name, kernel, load, strength, weights):
    _check(name, weights=weights, load=load, strength=strength)
    if weights == "binary" or isinstance(kernel.slope, Tracer):
        return
    if not np.isfinite(kernel.slope):
        raise ValueError(
            f"`{name}` with spherical weights needs a kernel of finite `slope`, but that of "
            f"{kernel} is infinite: with symmetric replicas there is no minimiser of "
            "cross-entropy. Use smooth units, such as `SmoothUnits(jnp.tanh)`."
        )
