"""Multiplicative noise on hidden neurons."""

from collections.abc import Callable

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, PRNGKeyArray, Scalar

from .. import _checks
from .fields import per_layer, strengths
from .layered import AbstractLayered


def gaussian_factors(
    key: PRNGKeyArray, shape: tuple[int, ...], variance: Scalar
) -> Float[Array, "..."]:
    """Normal factors of mean one."""
    key, variance = _check_factors("gaussian_factors", key, variance)
    return 1 + jnp.sqrt(variance) * jr.normal(key, shape, variance.dtype)


def dropout_factors(
    key: PRNGKeyArray, shape: tuple[int, ...], variance: Scalar
) -> Float[Array, "..."]:
    r"""Zero or $1/p$, the latter with probability $p = 1 / (1 + \sigma^2)$.

    So a dropout rate of $r$ has the variance $r / (1 - r)$.
    """
    key, variance = _check_factors("dropout_factors", key, variance)
    kept = jr.bernoulli(key, 1 / (1 + variance), shape)
    return jnp.where(kept, 1 + variance, 0)


def _check_factors(name, key, variance):
    variance = _checks.real(f"{name}(variance=...)", variance, _checks.NOT_NEGATIVE)
    return _checks.key(f"{name}(key=...)", key), variance


class NoisyNetwork(eqx.Module):
    r"""A network whose hidden neurons are multiplied by independent factors of mean one.

    $x \mapsto W_L\, \epsilon_{L-1} \odot W_{L-1} \cdots \epsilon_1 \odot W_1 x$ for a
    `DeepLinear`; of other networks too, what each layer but the last returns. A call draws
    all factors anew from its key: give each example its own, with `jax.vmap` over both. To
    train the `network`, see the losses `ExpectedNoisyLoss` and `SampledNoisyLoss`.

    Args:
        network: A layered network.
        variance: The variance $\sigma^2$ of the factors; one number, or one for each hidden
            layer, the first one first.
        factors: A function of a key, a shape and a variance, which draws factors of mean
            one. Compared by identity.

    Raises:
        ValueError: If a variance is negative, or there is not one for each hidden layer.
    """

    network: AbstractLayered
    variance: Float[Array, "..."] = eqx.field(
        converter=strengths("NoisyNetwork(variance=...)")
    )
    factors: Callable[..., Array] = eqx.field(static=True, default=gaussian_factors)

    def __check_init__(self):
        _checks.kind("NoisyNetwork(network=...)", self.network, AbstractLayered)
        what = "a key, a shape and a variance"
        _checks.function("NoisyNetwork(factors=...)", self.factors, what)
        per_layer(self.variance, self.network.depth - 1, "NoisyNetwork(variance=...)")

    def __call__(self, x: Float[Array, " in"], key: PRNGKeyArray) -> Float[Array, " out"]:
        """The output for one input and one draw of the noise."""
        network, hidden = self.network, self.network.depth - 1
        variances = per_layer(self.variance, hidden, "NoisyNetwork(variance=...)")
        for k, subkey in enumerate(jr.split(key, network.depth)):
            x = network.layer(k, x)
            if k < hidden:
                x *= self.factors(subkey, x.shape, variances[k].astype(x.dtype))
        return x
