"""Losses of networks with multiplicative noise, in expectation and by samples."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import (
    Array,
    Float,
    Int,
    PRNGKeyArray,
    PyTree,
    Scalar,
)

from .. import _checks
from ..networks import AbstractLayered, DeepLinear, NoisyNetwork, gaussian_factors
from ..networks.fields import per_layer, strengths
from .base import AbstractLoss
from .regression import Regression, needs_regression
from .samples import MeanSquaredError


def _draws(count: int) -> int:
    return _checks.whole("SampledNoisyLoss(draws=...)", count)


class ExpectedNoisyLoss(AbstractLoss):
    r"""The expected error of a linear network whose hidden neurons are noisy, exactly.

    $E_\epsilon \frac1n \sum_i \|P W_L\, \epsilon_{L-1} \odot W_{L-1} \cdots
    \epsilon_1 \odot W_1 x_i - y_i\|^2$ with independent factors of mean one and
    variance $\sigma_k^2$ in hidden layer $k$, for every sample and neuron: that of
    `NoisyNetwork`. Only these two moments of the noise matter.

    The excess is that of the regression plus the variance of the outputs, from one pass of
    covariances through the layers.

    Args:
        regression: The problem without noise.
        variance: $\sigma_k^2$; one number, or one for each hidden layer, the first one
            first. A dropout rate of $r$ has the variance $r / (1 - r)$.

    Raises:
        ValueError: If a variance is negative, or, of a network, there is not one for each
            hidden layer.
    """

    regression: Regression
    variance: Float[Array, "..."] = eqx.field(
        converter=strengths("ExpectedNoisyLoss(variance=...)")
    )

    def __check_init__(self):
        needs_regression("ExpectedNoisyLoss(regression=...)", self.regression)
        per_layer(self.variance, self.variance.size, "ExpectedNoisyLoss(variance=...)")

    @property
    def floor(self) -> Scalar:
        return self.regression.floor

    def excess(self, network: PyTree) -> Scalar:
        if not isinstance(network, DeepLinear):
            raise ValueError(
                "`ExpectedNoisyLoss` are those of a `DeepLinear`, but the network is a "
                f"`{type(network).__name__}`. For others draw them: `SampledNoisyLoss`."
            )
        excess = self.regression.excess(network)  # Also whether it fits.
        hidden = network.depth - 1
        variances = per_layer(self.variance, hidden, "ExpectedNoisyLoss(variance=...)")
        *layers, last = network.weights
        mean = self.regression.covariance
        noise = jnp.zeros_like(mean)
        for w, variance in zip(layers, variances, strict=True):
            mean, noise = (w @ moments @ w.T for moments in (mean, noise))
            squares = jnp.diagonal(mean) + jnp.diagonal(noise)
            noise += jnp.diag(variance.astype(noise.dtype) * squares)
        if self.regression.readout is not None:
            last = self.regression.readout @ last
        return excess + jnp.sum((last @ noise) * last)


class SampledNoisyLoss(AbstractLoss):
    r"""The error of a network whose hidden neurons are noisy, for draws of the noise.

    The mean over `draws` of the error of `NoisyNetwork`, with factors drawn from `key`
    for every draw, sample and neuron. For a linear network its expectation is
    `ExpectedNoisyLoss`. As a loss it is deterministic; but mini-batches of
    `gradient_descent` have fresh noise in every step (with `batch_size` the number of
    samples too).

    Args:
        error: The error without noise.
        variance: The variance of the factors; one number, or one for each hidden layer.
        key: Randomness of the factors.
        draws: Draws of the noise for each sample.
        factors: Their distribution, see `NoisyNetwork`.

    Raises:
        ValueError: If a variance is negative, `draws` is not positive, or, of a network,
            there is not one variance for each hidden layer.
    """

    error: MeanSquaredError
    variance: Float[Array, "..."] = eqx.field(
        converter=strengths("SampledNoisyLoss(variance=...)")
    )
    key: PRNGKeyArray
    draws: int = eqx.field(
        static=True,
        default=1,
        converter=_draws,
    )
    factors: Callable[..., Array] = eqx.field(static=True, default=gaussian_factors)

    def __check_init__(self):
        _checks.kind("SampledNoisyLoss(error=...)", self.error, MeanSquaredError)
        _checks.key("SampledNoisyLoss(key=...)", self.key)
        _checks.function("SampledNoisyLoss(factors=...)", self.factors, "a key and a shape")
        per_layer(self.variance, self.variance.size, "SampledNoisyLoss(variance=...)")

    @property
    def floor(self) -> Scalar:
        return self.error.floor

    def outputs(self, network: AbstractLayered) -> Float[Array, "draws samples out"]:
        noisy = NoisyNetwork(network, self.variance, self.factors)
        keys = jr.split(self.key, (self.draws, self.samples))
        return jax.vmap(lambda keys: self.error.read(jax.vmap(noisy)(self.error.x, keys)))(
            keys
        )

    def criterion(self, outputs: Float[Array, "draws samples out"]) -> Scalar:
        return jnp.mean(jax.vmap(self.error.criterion)(outputs))

    @property
    def samples(self) -> int:
        return self.error.samples

    def select(self, indices: Int[Array, " batch"]) -> "SampledNoisyLoss":
        return eqx.tree_at(lambda s: s.error, self, self.error.select(indices))

    def redraw(self, key: PRNGKeyArray) -> "SampledNoisyLoss":
        return eqx.tree_at(lambda s: s.key, self, key)
