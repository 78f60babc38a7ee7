r"""How far around a solution others are: profiles and volumes in weight space.

Distances are measured row by row: a row of $n$ weights with $\|w\|^2 = n$, or whatever norm
it has, is disturbed in proportion. For a `Committee` a row is a unit.
"""

import functools as ft

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, ArrayLike, Bool, Float, PyTree, Scalar
from optax.tree_utils import tree_random_like

from .. import _checks
from .._adapters import of_modules
from .._compilation import program
from .._linalg.norms import norm
from ..losses import AbstractLoss


@of_modules
def error_rate(loss: AbstractLoss, network: PyTree[Array]) -> Scalar:
    """The share of patterns whose class is wrong; what is not a number is wrong.

    Raises:
        ValueError: If the loss is no classification.
    """
    return _errors(loss)(network)


@of_modules
def zero_training_error(loss: AbstractLoss, network: PyTree[Array]) -> Bool[Array, ""]:
    """Whether no pattern is wrong: for the `until` of a run, and to judge its end.

    The status of a descent does not say so: it is `CONVERGED` where no pattern is wrong,
    but also where its loss cannot fall further while some are.

    Raises:
        ValueError: If the loss is no classification.
    """
    _errors(loss)
    answer = loss.solved(network)
    assert answer is not None
    return answer


@of_modules
def local_energy(
    loss: AbstractLoss,
    network: PyTree[Array],
    *,
    radius: ArrayLike,
    samples: int = 64,
    seed: int = 0,
) -> Float[Array, "..."]:
    r"""The share of patterns that become wrong where weights are disturbed at random.

    $E_z[\epsilon(w + r \bar w z)] - \epsilon(w)$ with the error rate $\epsilon$, normal
    $z$, and $\bar w$ the root mean square of each row. For committees of signs, whose rows
    have no scale, disturbed weights have the overlap $1 / \sqrt{1 + r^2}$ with those given.
    For a loss that is no classification, the loss takes the place of the error rate.

    Args:
        radius: The radius $r$, or an array of them.
        samples: Draws of the noise, the same for all radii.
        seed: Where it is drawn.

    Returns:
        One number for each radius; `nan` of a network that is not finite.

    Raises:
        ValueError: If a radius is negative, or there are no samples.
    """
    radius = _checks.real(
        "local_energy(radius=...)",
        radius,
        _checks.NOT_NEGATIVE,
        dtype=jax.tree.leaves(network)[0].dtype,
        ndim=None,
    )
    samples = _checks.whole("local_energy(samples=...)", samples)
    key = _checks.seed("local_energy(seed=...)", seed)
    return _local_energy(loss, network, radius, samples, key)


@program
def _local_energy(loss, network, radius, samples, key):
    measure = getattr(loss, "errors", loss)

    def disturbed(key, radius):
        noise = _scaled(tree_random_like(key, network, jr.normal), network)
        return measure(jax.tree.map(lambda w, z: w + radius * z, network, noise))

    def mean(radius):
        return jnp.mean(jax.vmap(disturbed, (0, None))(jr.split(key, samples), radius))

    found = jax.lax.map(mean, radius.ravel()).reshape(radius.shape)
    # What is not a number is wrong with and without noise, and would look flat.
    finite = jnp.all(jnp.isfinite(ravel_pytree(network)[0]))
    return jnp.where(finite, found - measure(network), jnp.nan)


class LocalEntropy(eqx.Module):
    r"""The volume of solutions at some distance.

    Attributes:
        entropy: $\frac1N \log$ of the share of weights at each distance that make no error,
            over the number $N$ of weights: zero where all are solutions.
        surviving: The share of walkers at the end without an error.
        reliable: Whether that is above 0.3. Else the volume was not found, and the entropy
            is an extrapolation, or $-\infty$.
    """

    entropy: Float[Array, "..."]
    surviving: Float[Array, "..."]
    reliable: Bool[Array, "..."]


@of_modules
def local_entropy(
    loss: AbstractLoss,
    network: PyTree[Array],
    *,
    distance: ArrayLike,
    walkers: int = 64,
    stages: int = 40,
    sweeps: int = 20,
    seed: int = 0,
) -> LocalEntropy:
    r"""The logarithm of the volume of solutions at a distance, by population annealing.

    Weights at distance $d$ have the overlap $S = 1 - 2d$ with those given, row by row:
    $w' = S w + \sqrt{1 - S^2}\, u$ with $u$ as long as $w$ and orthogonal to it. Walkers
    on these spheres are cooled from no weight on errors to one of $e^{-12}$ for each, by
    Metropolis steps and resampling (Hukushima & Iba, 2003), whose weights add up to the
    volume.

    It costs `walkers * stages * sweeps` evaluations of all patterns for each distance.

    Args:
        distance: The distance $d$ between 0 and 1/2, or an array of them.
        walkers: Size of the population.
        stages: Temperatures on the way.
        sweeps: Metropolis steps of each walker at each.
        seed: Randomness.

    Returns:
        One number of each kind for each distance; of a network that is not finite, an
        entropy of `nan`.

    Raises:
        ValueError: If the loss is no classification, a distance is out of range, or a
            number is not positive.
    """
    _errors(loss)
    within = _checks.Must(
        "be above 0 and at most 1/2, where weights are unrelated",
        lambda d: (d > 0) & (d <= 0.5),
    )
    distance = _checks.real(
        "local_entropy(distance=...)",
        distance,
        within,
        dtype=jax.tree.leaves(network)[0].dtype,
        ndim=None,
    )
    walkers, stages, sweeps = (
        _checks.whole(f"local_entropy({name}=...)", count)
        for name, count in (("walkers", walkers), ("stages", stages), ("sweeps", sweeps))
    )
    key = _checks.seed("local_entropy(seed=...)", seed)
    keys = jr.split(key, distance.size)
    found = _local_entropy(loss, network, distance.ravel(), keys, walkers, stages, sweeps)
    return jax.tree.map(lambda x: x.reshape(distance.shape), found)


@program
def _local_entropy(loss, network, distance, keys, walkers, stages, sweeps):
    def one(given):
        distance, key = given
        return _anneal(loss, network, distance, key, walkers, stages, sweeps)

    return jax.lax.map(one, (distance, keys))


def _anneal(loss, network, distance, key, walkers, stages, sweeps):
    overlap = 1 - 2 * distance
    across = jnp.sqrt(1 - overlap**2)
    move = lambda w, u: overlap * w + across * u
    errors = lambda u: loss.samples * _errors(loss)(jax.tree.map(move, network, u))
    start, climb = jr.split(key)
    draw = lambda key: _tangent(tree_random_like(key, network, jr.normal), network)
    place = jax.vmap(draw)(jr.split(start, walkers))
    dtype = distance.dtype
    cold = jnp.concatenate([jnp.zeros(1), jnp.geomspace(0.05, 12, stages)]).astype(dtype)

    def stage(carry, given):
        place, energy, angle, total = carry
        (before, beta), key = given
        logs = (before - beta) * energy
        total += jax.nn.logsumexp(logs) - jnp.log(jnp.asarray(walkers, dtype))
        choose, step = jr.split(key)
        chosen = jr.categorical(choose, logs, shape=(walkers,))
        place = jax.tree.map(lambda u: u[chosen], place)
        sweep = ft.partial(_sweep, errors, network, beta)
        carry = (place, energy[chosen], angle)
        (place, energy, angle), _ = jax.lax.scan(sweep, carry, jr.split(step, sweeps))
        return (place, energy, angle, total), None

    carry = (place, jax.vmap(errors)(place), jnp.ones((), dtype), jnp.zeros((), dtype))
    given = ((cold[:-1], cold[1:]), jr.split(climb, stages))
    (_, energy, _, total), _ = jax.lax.scan(stage, carry, given)
    surviving = jnp.mean(energy < 0.5, dtype=dtype)
    weights = ravel_pytree(network)[0].size
    entropy = (total + jnp.log(surviving)) / weights
    # Around what is not a number nothing is known, not even that nothing is a solution.
    finite = jnp.all(jnp.isfinite(ravel_pytree(network)[0]))
    entropy = jnp.where(finite, entropy, jnp.nan)
    return LocalEntropy(entropy, surviving, surviving > 0.3)


def _sweep(errors, network, beta, carry, key):
    """A Metropolis step of every walker, and of the angle toward a third accepted."""
    place, energy, angle = carry

    def propose(u, old, key):
        draw, accept = jr.split(key)
        other = _tangent(tree_random_like(draw, network, jr.normal), network)
        turned = lambda a, b: jnp.cos(angle) * a + jnp.sin(angle) * b
        new = _tangent(jax.tree.map(turned, u, other), network)
        energy = errors(new)
        taken = jnp.log(jr.uniform(accept, dtype=energy.dtype)) < beta * (old - energy)
        pick = lambda a, b: jnp.where(taken, a, b)
        return jax.tree.map(pick, new, u), pick(energy, old), taken

    keys = jr.split(key, energy.size)
    place, energy, taken = jax.vmap(propose)(place, energy, keys)
    faster = jnp.exp(0.3 * (jnp.mean(taken, dtype=angle.dtype) - 0.35))
    return (place, energy, jnp.clip(angle * faster, 1e-4, np.pi / 2)), None


def _errors(loss):
    if not hasattr(loss, "errors"):
        raise ValueError(
            "Errors are counted of a `Classification` or a `CrossEntropy`, or a loss made "
            f"of one, but the loss is a `{type(loss).__name__}`."
        )
    return loss.errors


def _scaled(noise, network):
    """Noise whose rows have the root mean square of those of the network."""
    size = lambda w: norm(w, axis=-1, keepdims=True) / w.shape[-1] ** 0.5
    return jax.tree.map(lambda z, w: z * size(w), noise, network)


def _tangent(u, network):
    """Rows orthogonal to those of the network, and as long."""

    def project(u, w):
        size = norm(w, axis=-1, keepdims=True)
        w = w / jnp.where(size > 0, size, 1)
        u = u - w * jnp.sum(u * w, axis=-1, keepdims=True)
        length = norm(u, axis=-1, keepdims=True)
        return u * (size / jnp.where(length > 0, length, 1))

    return jax.tree.map(project, u, network)
