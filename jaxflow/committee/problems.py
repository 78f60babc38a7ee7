r"""Two-class problems: patterns with labels, as losses of a network's sign."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jax.core import Tracer
from jaxtyping import (
    Array,
    ArrayLike,
    Bool,
    Float,
    Int,
    PRNGKeyArray,
    PyTree,
    Scalar,
    ScalarLike,
)

from .. import _checks
from ..losses import AbstractLoss
from ..losses.samples import each
from ..networks.committee import Committee


class Classification(AbstractLoss):
    r"""The cross-entropy of two classes, with a robustness parameter.

    $$ \frac1P \sum_\mu f_\gamma\big(y_\mu\, \Delta(x_\mu)\big), \qquad
       f_\gamma(z) = \frac{1}{2\gamma} \log\big(1 + e^{-2\gamma z}\big), $$

    of a network's one output $\Delta$, after Baldassi, Pittorino & Zecchina (2020). For
    large $\gamma$ it is the hinge $\max(0, -z)$, for small ones linear. With weights of
    fixed norm $\gamma$ is what the norm would be. The signs of a `Committee` are smoothed
    to $\tanh(\beta h)$.

    Args:
        x: Patterns, of shape `(samples, in)`.
        y: Labels 1 and -1, of shape `(samples,)`.
        robustness: $\gamma$.
        gain: $\beta$, of use for committees of signs only.

    Raises:
        ValueError: If there are no patterns, shapes do not fit, patterns are not finite,
            labels are others, or a parameter is not positive.
    """

    x: Float[Array, "samples in"]
    y: Float[Array, " samples"]
    robustness: Float[Array, ""]
    gain: Float[Array, ""]

    def __init__(
        self,
        x: ArrayLike,
        y: ArrayLike,
        *,
        robustness: ScalarLike = 1.0,
        gain: ScalarLike = 1.0,
    ):
        name = "Classification({}=...)".format
        self.x = _checks.real(name("x"), x, ndim=None)
        dtype = self.x.dtype
        self.y = _checks.numbers(name("y"), y).astype(dtype)
        self.robustness, self.gain = (
            _checks.real(name(what), value, _checks.POSITIVE, dtype=dtype)
            for what, value in (("robustness", robustness), ("gain", gain))
        )
        _check(self)

    @property
    def floor(self) -> Scalar:
        return jnp.zeros((), self.x.dtype)

    def outputs(self, network: PyTree) -> Float[Array, " samples"]:
        if isinstance(network, Committee):
            return self._one(jax.vmap(lambda x: network.smooth(x, self.gain))(self.x))
        return self._one(each(network, self.x))

    def criterion(self, outputs: Float[Array, " samples"]) -> Scalar:
        scale = 2 * self.robustness
        return jnp.mean(jax.nn.softplus(-scale * self.y * outputs)) / scale

    def margins(self, network: PyTree) -> Float[Array, " samples"]:
        r"""$y_\mu \Delta(x_\mu)$, of the signs themselves: positive where it is right."""
        return self.y * self._one(each(network, self.x))

    def errors(self, network: PyTree) -> Float[Array, ""]:
        """The share of patterns that are wrong; what is not a number is."""
        return jnp.mean(~(self.margins(network) > 0), dtype=self.x.dtype)

    def solved(self, network: PyTree) -> Bool[Array, ""]:
        return jnp.all(self.margins(network) > 0)

    def _one(self, outputs):
        if outputs.shape[1:] != (1,):
            raise ValueError(
                "The network must return one output, whose sign is the class, but "
                f"returns {outputs.shape[1:]}."
            )
        return outputs[:, 0]

    @property
    def samples(self) -> int:
        return self.y.shape[0]

    def select(self, indices: Int[Array, " batch"]) -> "Classification":
        which = lambda s: (s.x, s.y)
        return eqx.tree_at(which, self, (self.x[indices], self.y[indices]))


def random_patterns(samples: int, inputs: int, *, key: PRNGKeyArray) -> Classification:
    """Patterns and labels of independent fair signs."""
    samples, inputs, key = _check_sizes("random_patterns", samples, inputs, key)
    x_key, y_key = jr.split(key)
    x = jr.rademacher(x_key, (samples, inputs), float)
    return Classification(x, jr.rademacher(y_key, (samples,), float))


def teacher_patterns(
    samples: int,
    teacher: PyTree[Array],
    inputs: int,
    *,
    key: PRNGKeyArray,
) -> Classification:
    """Patterns of independent fair signs, with the labels that a network gives them.

    Raises:
        ValueError: If the network has not one output, or gives what is not a number.
    """
    samples, inputs, key = _check_sizes("teacher_patterns", samples, inputs, key)
    x = jr.rademacher(key, (samples, inputs), float)
    _checks.function("teacher_patterns(teacher=...)", teacher, "one pattern")
    answers = each(teacher, x)
    if answers.shape[1:] != (1,):
        raise ValueError(
            "`teacher_patterns(teacher=...)` must return one output, whose sign is the "
            f"class, but returns {answers.shape[1:]}."
        )
    unknown = jnp.isnan(answers[:, 0])
    if not isinstance(unknown, Tracer) and np.any(np.asarray(unknown)):
        raise ValueError(
            "`teacher_patterns(teacher=...)` must return numbers, but returns `nan` for "
            f"{np.sum(np.asarray(unknown))} of {samples} patterns."
        )
    labels = jnp.where(answers[:, 0] > 0, 1.0, -1.0)
    return Classification(x, jnp.where(unknown, jnp.nan, labels))


def mixture_patterns(
    samples: int,
    inputs: int,
    *,
    prototypes: int = 4,
    flips: float = 0.36,
    data_key: PRNGKeyArray,
    key: PRNGKeyArray,
) -> Classification:
    """Noisy copies of prototypes, which belong to one class or the other.

    Args:
        samples: The number of patterns.
        inputs: Inputs of each, 1 or -1.
        prototypes: Random prototypes in each class.
        flips: The share of inputs that a copy has changed.
        data_key: Randomness of the prototypes: the same for training and test patterns.
        key: Randomness of the copies.

    Raises:
        ValueError: If a number is not positive, or `flips` not between 0 and 1.
    """
    samples, inputs, key = _check_sizes("mixture_patterns", samples, inputs, key)
    name = "mixture_patterns({}=...)".format
    prototypes = _checks.whole(name("prototypes"), prototypes)
    share = _checks.Must("be between 0 and 1", lambda p: (p >= 0) & (p <= 1))
    chance = _checks.real(name("flips"), flips, share, dtype=float)
    data_key = _checks.key(name("data_key"), data_key)
    which_key, flip_key = jr.split(key)
    corners = jr.rademacher(data_key, (2 * prototypes, inputs), float)
    which = jr.randint(which_key, (samples,), 0, 2 * prototypes)
    kept = jr.bernoulli(flip_key, 1 - chance, (samples, inputs))
    x = corners[which] * jnp.where(kept, 1.0, -1.0)
    return Classification(x, jnp.where(which < prototypes, 1.0, -1.0))


def _check_sizes(name, samples, inputs, key):
    return (
        _checks.whole(f"{name}(samples=...)", samples),
        _checks.whole(f"{name}(inputs=...)", inputs),
        _checks.key(f"{name}(key=...)", key),
    )


def _check(loss):
    if loss.x.ndim != 2 or loss.y.shape != loss.x.shape[:1] or 0 in loss.x.shape:
        raise ValueError(
            "`Classification(x, y)` must hold one pattern a row and one label each, but "
            f"the shapes are {loss.x.shape} and {loss.y.shape}."
        )
    if not isinstance(loss.y, Tracer):
        labels = np.unique(np.asarray(loss.y))
        if not np.isin(labels, (-1.0, 1.0)).all():
            raise ValueError(
                "`Classification(y=...)` must be labels 1 and -1, but holds "
                f"{labels[:5]}. For two classes 0 and 1 pass `2 * y - 1`."
            )
