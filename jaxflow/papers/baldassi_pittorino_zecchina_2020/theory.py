"""What theory predicts, by replicas; conventions are those of the package."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.nn import logsumexp, sigmoid
from jax.scipy.special import betainc, log_ndtr, ndtr
from jaxtyping import Array, ArrayLike, Bool, Float, Scalar, ScalarLike

from ... import _checks
from ..._compilation import program
from . import costs, references, saddles
from .overlap_kernels import (
    AbstractKernel as AbstractKernel,
    Perceptron as Perceptron,
    ReLUUnits as ReLUUnits,
    SignUnits as SignUnits,
    SmoothUnits as SmoothUnits,
)
from .saddles import STEPS as STEPS, TOLERANCE as TOLERANCE


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
    weights: str = "spherical",
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
    _check_kernel("gardner", kernel)
    load, margin = _check("gardner", weights=weights, load=load, margin=margin)
    return _gardner(kernel, load, margin, weights)


@program
def _gardner(kernel, load, margin, weights):
    """By the overlap at which the load is as given."""

    def excess(a, finer=1):
        return _load(kernel, _free(a, weights, finer), margin, finer) - load

    at = saddles.bisect(excess, *_LIMITS[weights])
    free = _free(at, weights, 2)
    coarse, fine = (
        load * _typical_energy(kernel, free.overlap, margin, finer) for finer in (1, 2)
    )
    found = Typical(free.overlap, free.entropy + fine, free.conjugate)
    there = jnp.abs(excess(at, 2)) < 1e-6 * load
    return saddles.only(there & saddles.resolved(coarse, fine), found)


class _Free(NamedTuple):
    """Weights of some overlap if there are no patterns, and what draws them apart."""

    overlap: Scalar
    force: Scalar
    entropy: Scalar
    conjugate: Scalar


# Of the logit of the overlap of spherical weights, or the logarithm of the conjugate.
_LIMITS = {"spherical": (-30.0, 25.0), "binary": (-30.0, 15.0)}


def _free(a, weights, finer=1):
    if weights == "spherical":
        q, rest = sigmoid(a), sigmoid(-a)
        return _Free(q, q / rest**2, (jnp.log(rest) + q / rest) / 2, jnp.nan * a)
    conjugate, root = jnp.exp(a), jnp.exp(a / 2)
    z, weight = saddles.around(jnp.zeros_like(root), root, finer * 120 + 1)
    q = weight @ jnp.tanh(root * z) ** 2
    entropy = weight @ saddles.log_2_cosh(root * z) - conjugate * (1 - q) / 2
    return _Free(q, conjugate, entropy, conjugate)


def _typical_energy(kernel, q, margin, finer=1):
    """By `finer` times as many nodes, which are close where fields pass the margin."""
    shared = kernel(q)
    steepness = jnp.sqrt(shared / (1 - shared))
    center = margin / jnp.sqrt(jnp.maximum(shared, 1e-30))
    nodes = saddles.around(center, steepness, finer * 160 + 1)
    bound = margin / jnp.sqrt(1 - shared)
    return saddles.mean(lambda t: log_ndtr(steepness * t - bound), nodes)


def _load(kernel, free, margin, finer=1):
    """At which solutions have this overlap."""
    slope = jax.grad(_typical_energy, 1)(kernel, free.overlap, margin, finer)
    return -free.force / (2 * slope)


def capacity(
    kernel: AbstractKernel, *, margin: ScalarLike = 0.0, weights: str = "spherical"
) -> Scalar:
    r"""The largest load with solutions.

    Spherical weights: $\kappa'(1) / [(1 + \kappa_0^2) \Phi(\kappa_0) + \kappa_0
    G(\kappa_0)]$, where $q \to 1$; infinite for units that jump. Binary weights: where the
    entropy of `gardner` is zero.
    """
    _check_kernel("capacity", kernel)
    [margin] = _check("capacity", weights=weights, margin=margin)
    if weights == "binary":
        return _binary_capacity(kernel, margin)
    density = jnp.exp(-(margin**2) / 2) / np.sqrt(2 * np.pi)
    return kernel.slope / ((1 + margin**2) * ndtr(margin) + margin * density)


@program
def _binary_capacity(kernel, margin):
    def deficit(a, finer=1):
        free = _free(a, "binary", finer)
        load = _load(kernel, free, margin, finer)
        return -free.entropy - load * _typical_energy(kernel, free.overlap, margin, finer)

    at = saddles.bisect(deficit, *_LIMITS["binary"])
    found = _load(kernel, _free(at, "binary", 2), margin, 2)
    return saddles.only(jnp.abs(deficit(at, 2)) < 1e-6, found)


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
    _check_kernel("capacity_one_step", kernel)
    if not isinstance(kernel.slope, Tracer) and not np.isfinite(kernel.slope):
        raise ValueError(
            f"`capacity_one_step` needs a finite `slope`, but that of {kernel} is "
            f"{kernel.slope}: its capacity diverges with the number of units. See "
            "`committee_capacity` for finitely many."
        )
    return _capacity_one_step(kernel)


@program
def _capacity_one_step(kernel):
    def log_load(a, finer=1):
        q, ratio = sigmoid(a[0]), jnp.exp(a[1])
        shared, open_ = kernel(q), 1 + ratio * (1 - q)
        wide = 1 + ratio * (1 - kernel(q)) / kernel.slope

        def log_volume(t):
            x = jnp.sqrt(shared / (1 - shared)) * t
            spread = -(wide - 1) / wide * x**2 / 2 - jnp.log(wide) / 2
            return jnp.logaddexp(log_ndtr(x), spread + log_ndtr(-x / jnp.sqrt(wide)))

        volume = (jnp.log(open_) + ratio * q / open_) / 2
        steepness = jnp.sqrt(shared / (1 - shared))
        nodes = saddles.around(0.0, steepness, finer * 400 + 1)
        return jnp.log(volume) - jnp.log(-saddles.mean(log_volume, nodes))

    grid = jnp.stack(jnp.meshgrid(jnp.linspace(-2, 5, 15), jnp.linspace(-2, 6, 17)), -1)
    starts = grid.reshape(-1, 2)
    start = starts[jnp.argmin(jax.vmap(log_load)(starts))]
    point, slope = saddles.root(jax.grad(log_load), start[None])
    fine, change = jax.value_and_grad(log_load)(point, 2)
    found = OneStep(jnp.exp(fine), sigmoid(point[0]), jnp.exp(point[1]))
    below = found.load < (1 - 1e-6) * capacity(kernel)
    resolved = jnp.max(jnp.abs(change)) < saddles.RESOLUTION
    return saddles.only((slope < TOLERANCE) & resolved & below, found)


def committee_capacity(hidden: int) -> Scalar:
    r"""The capacity of a tree committee of `hidden` $= K$ sign units, symmetric replicas.

    One over the mean square displacement of the fields that gives the majority the right
    sign, by the units of least cost:
    $K \int_0^\infty Dx\, x^2\, P[\mathrm{Bin}(K-1, \Phi(x)) \le (K-1)/2]$.

    Raises:
        ValueError: If the number of units is not odd.
    """
    hidden = _checks.whole("committee_capacity(hidden=...)", hidden)
    if hidden % 2 == 0:
        raise ValueError(
            "`committee_capacity(hidden=...)` must be odd, so that there is a majority, "
            f"but is {hidden}."
        )
    half = (hidden - 1) // 2
    # A majority turns where fields are of order one over the root of their number.
    end, steps = 12.0, np.polynomial.legendre.leggauss(100)
    reach = np.arcsinh(end * hidden**0.5)
    along = reach * (1 + steps[0]) / 2
    nodes = np.sinh(along) / hidden**0.5
    weights = steps[1] * reach / 2 * np.cosh(along) / hidden**0.5
    density = jnp.asarray(weights * np.exp(-(nodes**2) / 2) / np.sqrt(2 * np.pi))
    few = betainc(half, half + 1.0, ndtr(-nodes)) if half else jnp.ones_like(density)
    return 1 / (hidden * density @ (few * jnp.asarray(nodes**2)))


class Minimizer(NamedTuple):
    r"""Weights of least cross-entropy.

    Attributes:
        error: The fraction of patterns that they get wrong.
        energy: The mean cross-entropy $f_\gamma$ of a pattern.
        overlap: $q$ of two minimizers for the same patterns; one for spherical weights.
        log_stiffness: $\ln \chi$ for spherical weights, where $\beta (1 - q) \to \chi$ as
            $\beta \to \infty$, and for binary ones $\ln \beta$ where they freeze.
        conjugate: $\hat q$ of binary weights; `nan` for spherical ones.
    """

    error: Scalar
    energy: Scalar
    overlap: Scalar
    log_stiffness: Scalar
    conjugate: Scalar


def cross_entropy_minimizer(
    kernel: AbstractKernel,
    load: ScalarLike,
    strength: ScalarLike,
    *,
    weights: str = "spherical",
) -> Minimizer:
    r"""The minimizer of cross-entropy of this `strength` $\gamma$, at fixed norm.

    Spherical weights: fields $z$ of variance one become
    $\lambda^\star(z) = \arg\min (\lambda - z)^2 / 2 \chi + f_\gamma(s \lambda)$ with
    $\alpha \int Dz\, (\lambda^\star - z)^2 = \kappa'(1)$, and the error is $H(\chi s / 2)$.

    Binary weights: a stationary point of
    $-\frac12 \hat q (1-q) + \int Dz \ln 2 \cosh(\sqrt{\hat q} z) + \alpha \int Dz \ln \int
    Dx\, e^{-\beta f_\gamma(s \lambda)}$ with $\lambda = \sqrt{\kappa(q)}\, z +
    \sqrt{1 - \kappa(q)}\, x$, at the $\beta$ at which the entropy of these weights is zero.

    Args:
        kernel: The device.
        load: Patterns $\alpha$ for each weight.
        strength: The robustness $\gamma$, for which weights of a free norm stand.
        weights: Real on a sphere, or binary.

    Raises:
        ValueError: If load or strength are not positive, or units jump and the weights are
            spherical: then symmetric replicas have no such limit.
    """
    given = {"load": load, "strength": strength}
    load, strength = _check_minimizer("cross_entropy_minimizer", kernel, weights, **given)
    return _minimizer(kernel, load, strength, weights)


@program
def _minimizer(kernel, load, strength, weights):
    loss = _cost(kernel, strength)
    if weights == "binary":
        return _frozen(kernel, load, loss)
    log_chi = costs.log_stiffness(loss, load, kernel.slope)

    def energy(finer):
        nodes, density = saddles.normal(finer * 800 + 1)
        return density @ loss(nodes + costs.pull(loss, nodes, log_chi))

    coarse, fine = energy(1), energy(2)
    error = ndtr(-jnp.exp(log_chi) * loss.scale / 2)
    found = Minimizer(error, fine, jnp.ones_like(error), log_chi, jnp.nan * error)
    return saddles.only(saddles.resolved(coarse, fine), found)


def _cost(kernel, strength):
    """The cross-entropy of a device's output, as a function of its field."""
    return costs.CrossEntropy(strength, jnp.asarray(kernel.scale, float))


def _frozen(kernel, load, loss):
    """Where the entropy of weights drawn by cross-entropy is zero."""

    def energy(q, log_beta, finer=1):
        shared, beta, count = kernel(q), jnp.exp(log_beta), finer * costs.NODES
        state = lambda z: costs.log_partition(
            loss, jnp.sqrt(shared) * z, 1 - shared, beta, count
        )
        return load * saddles.mean(state, saddles.normal(finer * 200 + 1))

    def rising(a, log_beta, finer=1):
        free = _free(a, "binary", finer)
        return free.force / 2 + jax.grad(energy)(free.overlap, log_beta, finer)

    def saddle(log_beta):
        return saddles.bisect(lambda a: rising(a, log_beta), *_LIMITS["binary"], 40)

    def deficit(log_beta, a, finer=1):
        free = _free(a, "binary", finer)
        value, slope = jax.value_and_grad(energy, 1)(free.overlap, log_beta, finer)
        return slope - value - free.entropy, slope

    # Large where fields are far from zero, so that the loss is exponentially small.
    high = 10 + 3 * loss.strength * loss.scale * (1 + 1 / jnp.sqrt(load))
    log_beta = saddles.bisect(lambda x: deficit(x, saddle(x))[0], -2.0, high, 50)
    a = saddle(log_beta)
    free, (left, slope) = _free(a, "binary", 2), deficit(log_beta, a, 2)
    mean = -slope / (load * jnp.exp(log_beta))
    coarse, error = (
        _frozen_error(kernel(free.overlap), loss, jnp.exp(log_beta), finer)
        for finer in (1, 2)
    )
    found = Minimizer(error, mean, free.overlap, log_beta, free.conjugate)
    stationary = (jnp.abs(left) < 1e-6) & (jnp.abs(rising(a, log_beta, 2)) < 1e-6)
    return saddles.only(stationary & saddles.resolved(coarse, error), found)


def _frozen_error(shared, loss, beta, finer):
    """The probability of a negative field."""
    nodes, lengths = (jnp.asarray(x) for x in np.polynomial.legendre.leggauss(finer * 100))
    # Denser close to zero, where most of them are.
    depths = (1 + nodes) / 2
    fields, measure = -9.0 * depths**3, 27.0 * depths**2 * lengths / 2

    def share(z):
        mean, rest = jnp.sqrt(shared) * z, 1 - shared
        normal = -((fields - mean) ** 2) / (2 * rest) - jnp.log(2 * np.pi * rest) / 2
        total = costs.log_partition(loss, mean, rest, beta, finer * costs.NODES)
        return measure @ jnp.exp(normal - beta * loss(fields) - total)

    return saddles.mean(share, saddles.normal(finer * 200 + 1))


def local_energy(
    kernel: AbstractKernel, load: ScalarLike, strength: ScalarLike, radius: ArrayLike
) -> Array:
    r"""The error of the spherical minimizer of cross-entropy after noise on its weights.

    Noise of standard deviation $\epsilon$, the `radius`, on weights of mean square one: for
    a perceptron $\int Dz\, H(\lambda^\star(z) / \epsilon)$, and for units, which have
    overlap $S = (1 + \epsilon^2)^{-1/2}$ with what they were,
    $$ \int Dz\, H\!\left(\frac{\kappa(S)\, z + \kappa'(S)\, S\, (\lambda^\star - z) /
       \kappa'(1)}{\sqrt{1 - \kappa(S)^2}}\right). $$

    Raises:
        ValueError: If there is no minimizer, or a radius is not positive.
    """
    given = {"load": load, "strength": strength, "radius": radius}
    load, strength, radius = _check_minimizer("local_energy", kernel, "spherical", **given)
    return _local_energy(kernel, load, strength, radius.ravel()).reshape(radius.shape)


@program
def _local_energy(kernel, load, strength, radii):
    loss = _cost(kernel, strength)
    log_chi = costs.log_stiffness(loss, load, kernel.slope)
    # Fields change sign where they are pulled from minus this, the faster the less noise.
    edge = jnp.exp(log_chi) * loss.scale / 2

    def error(radius, finer):
        overlap = 1 / jnp.sqrt(1 + radius**2)
        steepness = 1 / radius + strength * loss.scale
        z, weight = saddles.around(-edge, steepness, finer * 800 + 1)
        pull = costs.pull(loss, z, log_chi)
        pulled = jax.grad(kernel)(overlap) * overlap / kernel.slope
        mean = kernel(overlap) * z + pulled * pull
        return weight @ ndtr(-mean / jnp.sqrt(1 - kernel(overlap) ** 2))

    def solve(radius):
        coarse, fine = error(radius, 1), error(radius, 2)
        return saddles.only(saddles.resolved(coarse, fine), fine)

    return jax.vmap(solve)(radii)


class LocalEntropy(NamedTuple):
    r"""Solutions at given distances from a reference.

    Attributes:
        entropy: The logarithm of their volume, or number, over $N$.
        normalized: The same above what it is without patterns, which is
            $\frac12 \ln(1 - S^2)$ or $-d \ln d - (1-d) \ln(1-d)$.
        overlap: $p$ of two of them.
        cross: $t$ of one of them and another reference, for the same patterns; for
            spherical minimizers the limit of $(S - t) / (1 - q)$.
        residual: By how much these are not stationary, infinite where none were found; or
            by how much twice as many nodes of the integrals would change that or the
            entropy, whichever is more.
        converged: Whether they are stationary to $10^{-9}$, and more nodes change less than
            $10^{-7}$. Else all but the residual are `nan`.
    """

    entropy: Array
    normalized: Array
    overlap: Array
    cross: Array
    residual: Float[Array, "..."]
    converged: Bool[Array, "..."]


def franz_parisi(
    kernel: AbstractKernel,
    load: ScalarLike,
    distance: ArrayLike,
    *,
    strength: ScalarLike | None = None,
    weights: str = "spherical",
) -> LocalEntropy:
    r"""The entropy of solutions at a distance from a reference (Franz & Parisi, 1995).

    A stationary point in $p$ and $t$ of the volume and
    $$ \alpha \int Dz \left\langle \int Dy \ln H\!\left(-\frac{\kappa(t)\, \kappa(q)^{-1/2}
       z + \frac{\kappa(S) - \kappa(t)}{1 - \kappa(q)} (\lambda - \sqrt{\kappa(q)} z) +
       \sqrt v\, y}{\sqrt{1 - \kappa(p)}}\right) \right\rangle_{\lambda | z} $$
    with $v = \kappa(p) - \kappa(t)^2 / \kappa(q) - (\kappa(S) - \kappa(t))^2 /
    (1 - \kappa(q))$, over fields $\lambda$ of the reference, which are normal about
    $\sqrt{\kappa(q)} z$ but positive for typical solutions, and weighted by
    $e^{-\beta f_\gamma}$ for minimizers; for spherical ones $q \to 1$.

    The volume is $\frac12 [\ln(1-p) + (p - s) / (1-p)]$ with
    $s = [S^2 - t^2 - q (S-t)^2 / (1-q)] / (1-q)$ for spherical weights, and for binary ones
    the stationary value of $-\frac12 \hat p (1-p) - \hat S S + \hat t t$ plus the mean of
    $\ln 2 \cosh(\hat t \hat q^{-1/2} z_0 + (\hat p - \hat t^2 / \hat q)^{1/2} z_1 +
    (\hat S - \hat t) W)$ over $W = \pm 1$ of probability $\propto e^{W \sqrt{\hat q} z_0}$.

    There may be none: minimizers that make errors have no solutions close by, and typical
    binary solutions may be isolated, where the entropy is negative.

    Args:
        kernel: The device.
        load: Patterns $\alpha$ for each weight.
        distance: $d = (1 - S) / 2$, any number of them.
        strength: The reference is the minimizer of cross-entropy of this strength; a
            typical solution if `None`.
        weights: Real on a sphere, or binary.

    Raises:
        ValueError: If load or strength are not positive, a distance is not between 0 and
            1/2, or there is no such minimizer, see `cross_entropy_minimizer`.
    """
    name, given = "franz_parisi", {"load": load, "distance": distance}
    _check_kernel(name, kernel)
    load, distance = _check(name, weights=weights, **given)
    if strength is not None:
        [strength] = _check_minimizer(name, kernel, weights, strength=strength)
    found = _franz_parisi(kernel, load, distance.ravel(), strength, weights)
    return jax.tree.map(lambda x: x.reshape(distance.shape), found)


@program
def _franz_parisi(kernel, load, distances, strength, weights):
    if weights == "spherical" and strength is not None:
        loss = _cost(kernel, strength)
        log_stiffness = costs.log_stiffness(loss, load, kernel.slope)
        coarse, fine = (
            references.Ground(kernel, load, loss, log_stiffness, finer) for finer in (1, 2)
        )
        return jax.vmap(lambda distance: _local(coarse, fine, distance))(distances)
    if strength is None:
        typical = _gardner(kernel, load, jnp.zeros_like(load), weights)
        q, conjugate = typical.overlap, typical.conjugate
        fields = lambda finer: references.typical_fields(kernel, q, finer)
    else:
        frozen = _minimizer(kernel, load, strength, weights)
        q, conjugate = frozen.overlap, frozen.conjugate
        loss = _cost(kernel, strength)
        fields = lambda finer: references.frozen_fields(
            kernel, q, loss, frozen.log_stiffness, finer
        )
    made = references.Sample if weights == "spherical" else references.BinarySample
    coarse, fine = (made(kernel, load, fields(finer), q, conjugate) for finer in (1, 2))
    return jax.vmap(lambda distance: _local(coarse, fine, distance))(distances)


def _local(coarse, fine, distance):
    """Solved by the nodes of one reference, checked and measured by those of another."""
    x, left = coarse.solve(distance)
    entropy, free, p, t = fine.entropy(distance, x)
    error = jnp.abs(entropy - coarse.entropy(distance, x)[0])
    residual = jnp.maximum(left, jnp.maximum(error, fine.residual(distance, x)))
    residual = jnp.where(jnp.isnan(residual), jnp.inf, residual)
    converged = (left < TOLERANCE) & (residual < saddles.RESOLUTION)
    entropy, p, t = saddles.only(converged, (entropy, p, t))
    return LocalEntropy(entropy, entropy - free, p, t, residual, converged)


class Replicas(NamedTuple):
    r"""Solutions that are at given distances from one another.

    Attributes:
        entropy: The logarithm of their number, or volume, over $N$ and the number $y$ of
            replicas.
        normalized: The same above what it is without patterns.
        overlap: $q_0$ of two that belong to different groups.
        residual: By how much it is not stationary, or changes with the number of nodes of
            the integrals, whichever is more.
        converged: Whether that is below $10^{-8}$. Else all but the residual are `nan`.
    """

    entropy: Array
    normalized: Array
    overlap: Array
    residual: Float[Array, "..."]
    converged: Bool[Array, "..."]


def replica_entropy(
    kernel: AbstractKernel,
    load: ScalarLike,
    distance: ArrayLike,
    replicas: int,
    *,
    weights: str = "spherical",
) -> Replicas:
    r"""The entropy of $y$ solutions, each at the same distance from each.

    A stationary point in $q_0$ of
    $$ \frac12 \left[\ln(1-q_1) + \frac1y \ln\left(1 + \frac{y (q_1 - q_0)}{1 - q_1}\right)
       + \frac{q_0}{1 - q_1 + y (q_1 - q_0)}\right] + \frac\alpha y \int Dt_0 \ln \int Dt_1
       H^y\!\left(-\frac{\sqrt{\kappa(q_0)}\, t_0 + \sqrt{\kappa(q_1) - \kappa(q_0)}\,
       t_1}{\sqrt{1 - \kappa(q_1)}}\right) $$
    with $q_1 = 1 - 2 d$; for binary weights the first part is
    $-\frac12 \hat q_1 (1-q_1) - \frac y2 (\hat q_1 q_1 - \hat q_0 q_0) + \frac1y \int Dz_0
    \ln \int Dz_1 [2 \cosh(\sqrt{\hat q_0} z_0 + \sqrt{\hat q_1 - \hat q_0} z_1)]^y$.
    The more replicas, the denser are the regions where they are. There are none further
    from one another than typical solutions are.

    Args:
        kernel: The device.
        load: Patterns $\alpha$ for each weight.
        distance: $d = (1 - q_1) / 2$ of any two replicas, any number of distances.
        replicas: How many, $y$.
        weights: Real on a sphere, or binary.

    Raises:
        ValueError: If the load is not positive, a distance is not between 0 and 1/2, or
            there is less than one replica.
    """
    given = {"load": load, "distance": distance}
    _check_kernel("replica_entropy", kernel)
    load, distance = _check("replica_entropy", weights=weights, **given)
    if weights == "binary" or not isinstance(replicas, Tracer):
        replicas = _checks.whole("replica_entropy(replicas=...)", replicas)
    overlaps = 1 - 2 * distance.ravel()
    if weights == "binary":
        found = _binary_replicas(kernel, load, overlaps, replicas)
    else:
        found = _replicas(kernel, load, overlaps, jnp.asarray(replicas, float))
    return jax.tree.map(lambda x: x.reshape(distance.shape), found)


@program
def _replicas(kernel, load, overlaps, replicas):
    def volume(q0, q1):
        whole = 1 - q1 + replicas * (q1 - q0)
        groups = jnp.log(whole / (1 - q1)) / replicas
        return (jnp.log1p(-q1) + groups + q0 / whole) / 2

    def solve(q1):
        joint = lambda q0, finer=1: _joint(kernel, load, q0, q1, replicas, finer)
        slope = jax.value_and_grad(lambda q0: volume(q0, q1) + joint(q0))
        at = saddles.bisect(lambda a: slope(q1 * sigmoid(a))[1], -15.0, 20.0)
        q0 = q1 * sigmoid(at)
        entropy, rise = slope(q0)
        fine = volume(q0, q1) + joint(q0, 2)
        free = volume(jnp.zeros_like(q1), q1)
        return _replica_result(fine, free, q0, rise * q1, entropy - fine)

    return jax.vmap(solve)(overlaps)


def _joint(kernel, load, q0, q1, replicas, finer=1):
    """The part of the patterns, by `finer` times as many nodes in every direction."""
    shared, group, rest = kernel(q0), kernel(q1) - kernel(q0), 1 - kernel(q1)
    loss, count = costs.Probit(jnp.sqrt(rest)), finer * costs.NODES
    state = lambda z: costs.log_partition(
        loss, jnp.sqrt(shared) * z, group, replicas, count
    )
    # Fields that are shared decide where they exceed all others.
    steepness = jnp.sqrt(shared / (group + rest))
    z, weight = saddles.around(jnp.zeros_like(steepness), steepness, finer * 80 + 1)
    return load / replicas * (weight @ jax.vmap(state)(z))


@program
def _binary_replicas(kernel, load, overlaps, replicas):
    count = np.arange(replicas + 1.0)
    choices = [math.lgamma(n + 1) for n in (replicas, *count, *count[::-1])]
    choices = choices[0] - np.sum(np.reshape(choices[1:], (2, -1)), 0)
    choices, surplus = jnp.asarray(choices), jnp.asarray(replicas - 2 * count)
    y = jnp.asarray(float(replicas))

    def states(shared, group, finer=1):
        """Of $y$ weights in common fields, a sum over how many are negative."""
        fixed = choices + surplus**2 * group / 2
        mean = lambda z: logsumexp(fixed + surplus * jnp.sqrt(shared) * z)
        return saddles.mean(mean, saddles.normal(finer * 400 + 1)) / y

    def equation(q1, shared, group, finer=1):
        """What is left of that of the fields, and the overlap of groups in them."""
        slopes = jax.grad(states, (0, 1))(shared, group, finer)
        left = slopes[1] - (1 - q1) / 2 - y * q1 / 2
        return left, 2 / y * (slopes[1] - slopes[0])

    def within(q1, shared):
        """The fields within a group."""
        rising = lambda a: equation(q1, shared, jnp.exp(a))[0]
        return jnp.exp(saddles.bisect(rising, -30.0, 8.0, 45))

    def volume(q0, q1, shared, group, finer=1):
        overlaps = (shared + group) * (1 - q1 + y * q1) - y * shared * q0
        return states(shared, group, finer) - overlaps / 2

    def solve(q1):
        joint = lambda q0, finer=1: _joint(kernel, load, q0, q1, y, finer)
        slope = jax.value_and_grad(joint)
        fields = lambda q0: -2 / y * slope(q0)[1]

        def excess(a):
            q0 = q1 * sigmoid(a)
            shared = fields(q0)
            return q0 - equation(q1, shared, within(q1, shared))[1]

        at = saddles.bisect(excess, -15.0, 15.0, 45)
        q0 = q1 * sigmoid(at)
        coarse, rise = slope(q0)
        shared, fine = -2 / y * rise, joint(q0, 2)
        group = within(q1, shared)
        left, other = equation(q1, shared, group, 2)
        entropy = volume(q0, q1, shared, group, 2) + fine
        error = entropy - volume(q0, q1, shared, group) - coarse
        none = jnp.full_like(q1, 1e-30)
        free = volume(0.0, q1, none, within(q1, none))
        residual = jnp.maximum(jnp.abs(left) / y, jnp.abs(q0 - other))
        return _replica_result(entropy, free, q0, residual, error)

    return jax.vmap(solve)(overlaps)


def _replica_result(entropy, free, q0, residual, error):
    residual = jnp.maximum(jnp.abs(residual), jnp.abs(error))
    converged = (residual < 1e-8) & (q0 > 1e-6)
    entropy, q0 = saddles.only(converged, (entropy, q0))
    return Replicas(entropy, entropy - free, q0, residual, converged)


def widest_entropy(kernel: AbstractKernel, load: ScalarLike, distance: ArrayLike) -> Array:
    r"""The most solutions that there can be around any weights, normalized.

    The limit $y \to \infty$ of `replica_entropy`, by the distance from their center, of
    spherical weights: with $q_1 = S^2$ a stationary point in $\delta$ of
    $$ \frac{q_1}{2 (1 - q_1 + \delta)} + \alpha \int Dt\, \max_h \left[\ln H\!\left(
       \frac{-h}{\sqrt{1 - \kappa(q_1)}}\right) - \frac{(h - \sqrt{\kappa(q_1)}\, t)^2}
       {2 \kappa'(q_1)\, \delta}\right]. $$
    The best center of a perceptron is the minimizer of the loss
    $-\ln H(-S \lambda / \sqrt{1 - S^2})$, which is almost cross-entropy of strength
    $S / \sqrt{1 - S^2}$. It is `nan` above `capacity`, and where $q_1$ is less than that of
    typical solutions, as `replica_entropy` is. Binary weights are bounded by what
    `replica_entropy` has without patterns.

    Raises:
        ValueError: If the load is not positive, or a distance not between 0 and 1/2.
    """
    _check_kernel("widest_entropy", kernel)
    load, distance = _check("widest_entropy", load=load, distance=distance)
    found = _widest(kernel, load, 1 - 2 * distance.ravel())
    return found.reshape(distance.shape)


@program
def _widest(kernel, load, overlaps):
    def solve(overlap):
        q = overlap**2
        root, slope = jnp.sqrt(kernel(q)), jax.grad(kernel)(q)
        loss = costs.Probit(jnp.sqrt(1 - kernel(q)))
        scales = {"spread": root, "width": (1 - q) * slope}
        log_stiffness = costs.log_stiffness(loss, load, q * slope, **scales)
        stiffness = jnp.exp(log_stiffness)

        def cost(finer):
            nodes, density = saddles.normal(finer * 800 + 1)
            pull = costs.pull(loss, root * nodes, log_stiffness)
            return density @ (loss(root * nodes + pull) + pull**2 / (2 * stiffness))

        coarse, fine = load * cost(1), load * cost(2)
        found = q / (2 * (1 - q + stiffness / slope)) - fine
        return saddles.only(saddles.resolved(coarse, fine), found)

    # Beyond, there is a stationary point that stands for no solutions.
    there = load < capacity(kernel)
    return jnp.where(there, jax.vmap(solve)(overlaps), jnp.nan)


def parity_entropy(hidden: int, load: ScalarLike, distance: ArrayLike) -> Array:
    r"""The entropy around a typical solution of a tree parity machine, normalized.

    Its output is the product of `hidden` $= K \ge 2$ signs. Solutions have no overlap, so
    it is $\alpha \ln \frac12 [1 + (1 - 2 \arccos(S) / \pi)^K]$, the logarithm of the
    probability that two networks agree: a cusp at distance zero, of
    $-2 \alpha K \sqrt d / \pi$, so that no typical solution is in a wide minimum.

    Raises:
        ValueError: If there are less than two units, the load is not positive, or a
            distance is not between 0 and 1/2.
    """
    load, distance = _check("parity_entropy", load=load, distance=distance)
    # For one unit see `franz_parisi` of a `Perceptron`.
    hidden = _checks.whole("parity_entropy(hidden=...)", hidden, 2)
    # The angle of weights at this distance, which does not cancel near zero.
    agree = 1 - 4 / np.pi * jnp.arcsin(jnp.sqrt(distance))
    return load * jnp.log((1 + agree**hidden) / 2)


_BETWEEN = _checks.Must(
    "be between 0 and 1/2, where weights are equal or have no overlap",
    lambda d: (d > 0) & (d < 0.5),
)
# What each number must do, and which may be many.
_MUST = {"distance": _BETWEEN, "margin": _checks.FINITE}
_MANY = ("distance", "radius")


def _check_kernel(name, kernel):
    way = "Such as `Perceptron()`."
    _checks.kind(f"{name}(kernel=...)", kernel, AbstractKernel, way)


def _check(name, *, weights="spherical", **given) -> list[Array]:
    """The numbers, of the default precision, if they are in range."""
    _checks.choice(f"{name}(weights=...)", weights, ("spherical", "binary"))
    return [
        _checks.real(
            f"{name}({key}=...)",
            value,
            _MUST.get(key, _checks.POSITIVE),
            dtype=float,
            ndim=None if key in _MANY else 0,
        )
        for key, value in given.items()
    ]


def _check_minimizer(name, kernel, weights, **given) -> list[Array]:
    _check_kernel(name, kernel)
    found = _check(name, weights=weights, **given)
    if weights == "binary" or isinstance(kernel.slope, Tracer):
        return found
    if not np.isfinite(kernel.slope):
        raise ValueError(
            f"`{name}` with spherical weights needs a kernel of finite `slope`, but that "
            f"of {kernel} is infinite: with symmetric replicas there is no minimizer of "
            "cross-entropy. Use smooth units, such as `SmoothUnits(jnp.tanh)`."
        )
    return found
