r"""What it descends: losses, scalar functions of a network that carry their data.

**One convention.** The squared error is $\frac1n \sum_i \|f(x_i) - y_i\|^2$: a mean over
samples, a sum over outputs, no factor one half; weight decay is $\gamma \|\theta\|^2$. For
any other convention multiply: `0.5 * loss` is a loss whose gradient, Hessian and sharpness
are half as large, and whose flow takes the same path at half the speed.
"""

from collections.abc import Callable
from typing import Any

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

from . import _checks
from ._linalg import decompositions
from ._linalg.precision import full_precision
from .networks import (
    AbstractLayered,
    DeepLinear,
    NoisyNetwork,
    chain,
    gaussian_factors,
    optional_array,
    per_layer,
    real_array,
    strengths,
)


def _draws(count: int) -> int:
    return _checks.whole("SampledNoisyLoss(draws=...)", count)


class AbstractLoss(eqx.Module):
    """A scalar function of a network, carrying everything it needs to be evaluated.

    Its value is `floor + excess(network)`. They are kept apart because near a minimum the
    excess is far smaller than the rounding of their sum. Losses add, and can be scaled:
    `0.5 * problem + WeightDecay(1e-3)` is a loss.

    A loss implements `outputs` and `criterion`, of which `excess` is the composition, and
    which say what the Gauss-Newton part of the Hessian is; or `excess` alone.

    Attributes:
        floor: A number that the loss never falls below.
    """

    floor: eqx.AbstractVar[Float[Array, ""]]

    def excess(self, network: PyTree) -> Scalar:
        """The loss above its floor."""
        return self.criterion(self.outputs(network))

    def outputs(self, network: PyTree) -> PyTree[Array]:
        """What the loss asks of the network: arrays, as a function of the weights."""
        del network
        raise ValueError(self._whole())

    def criterion(self, outputs: PyTree[Array]) -> Scalar:
        """The loss above its floor, as a function of the network's `outputs`."""
        del outputs
        raise ValueError(self._whole())

    def _whole(self) -> str:
        name = type(self).__name__
        return (
            f"`{name}` must say what its outputs are, but only defines `excess`, if that. "
            f"Implement `{name}.outputs(network)` and `{name}.criterion(outputs)`."
        )

    def __call__(self, network: PyTree) -> Scalar:
        """The loss at `network`."""
        excess = self.excess(network)
        return jnp.asarray(self.floor, excess.dtype) + excess

    def __add__(self, other: "AbstractLoss") -> "Sum":
        if not isinstance(other, AbstractLoss):
            raise TypeError(
                f"A loss can be added to losses, not to {_checks.brief(other)}. For a "
                "function of the network use `FunctionLoss`."
            )
        (terms, factors), (more, others) = _parts(self), _parts(other)
        return Sum(terms + more, factors + others)  # pyright: ignore

    def __rmul__(self, factor: ScalarLike) -> "AbstractLoss":
        terms, factors = _parts(self)
        factor = _factor(factor)
        return Sum(terms, tuple(factor * f for f in factors))  # pyright: ignore

    def least_excess(self, network: PyTree) -> Scalar | None:
        """The least excess of any network of these shapes, where that is known.

        Known are losses without local minima, so that whatever rests above is a saddle.
        """
        del network
        return None

    @property
    def samples(self) -> int | None:
        """The number of samples that mini-batches are drawn from, if there are any."""
        return None

    def select(self, indices: Int[Array, " batch"]) -> "AbstractLoss":
        """The same loss on some of its samples."""
        del indices
        return self

    def redraw(self, key: PRNGKeyArray) -> "AbstractLoss":
        """The same loss with what is random in it drawn anew, if anything is."""
        del key
        return self

    def at(self, count: Array) -> "AbstractLoss":
        """The same loss after a number of steps of a descent, if it changes with them."""
        del count
        return self

    def solved(self, network: PyTree) -> Bool[Array, ""] | None:
        """Whether a network solves the problem, for losses that ask no more than that."""
        del network
        return None


class Sum(AbstractLoss):
    """A sum of losses, each times a positive factor. Written `a + b` and `0.5 * a`."""

    terms: tuple[AbstractLoss, ...]
    factors: tuple[Float[Array, ""], ...]

    @property
    def floor(self) -> Scalar:
        return self._add(term.floor for term in self.terms)

    def excess(self, network: PyTree) -> Scalar:
        return self._add(term.excess(network) for term in self.terms)

    def outputs(self, network: PyTree) -> tuple[PyTree[Array], ...]:
        return tuple(term.outputs(network) for term in self.terms)

    def criterion(self, outputs: tuple[PyTree[Array], ...]) -> Scalar:
        pairs = zip(self.terms, outputs, strict=True)
        return self._add(term.criterion(output) for term, output in pairs)

    def _add(self, values) -> Scalar:
        pairs = zip(self.factors, values, strict=True)
        return sum((factor.astype(v.dtype) * v for factor, v in pairs), start=0.0)  # pyright: ignore

    def least_excess(self, network: PyTree) -> Scalar | None:
        least = [term.least_excess(network) for term in self.terms]
        # Of several terms no one knows.
        return None if len(least) > 1 or least[0] is None else self._add(least)

    @property
    def samples(self) -> int | None:
        sizes = {term.samples for term in self.terms if term.samples is not None}
        if len(sizes) > 1:
            raise ValueError(
                "Mini-batches of a sum need terms with one number of samples, but these "
                f"have {sorted(sizes)}."
            )
        return next(iter(sizes), None)

    def select(self, indices: Int[Array, " batch"]) -> "Sum":
        terms = tuple(term.select(indices) for term in self.terms)
        return eqx.tree_at(lambda s: s.terms, self, terms)

    def redraw(self, key: PRNGKeyArray) -> "Sum":
        keys = jr.split(key, len(self.terms))
        terms = tuple(t.redraw(k) for t, k in zip(self.terms, keys, strict=True))
        return eqx.tree_at(lambda s: s.terms, self, terms)

    def at(self, count: Array) -> "Sum":
        terms = tuple(term.at(count) for term in self.terms)
        return eqx.tree_at(lambda s: s.terms, self, terms)


def _factor(factor: ScalarLike) -> Scalar:
    return _checks.real("factor * loss", factor, _checks.NOT_NEGATIVE, dtype=float)


def _parts(loss: AbstractLoss) -> tuple[tuple[AbstractLoss, ...], tuple[Array, ...]]:
    return (
        (loss.terms, loss.factors) if isinstance(loss, Sum) else ((loss,), (jnp.ones(()),))
    )


class Regression(AbstractLoss):
    r"""Mean squared error of a linear network, held by the moments of the data.

    $$ \frac1n \sum_i \|P W x_i - y_i\|^2
       = \mathrm{tr}\,(P W - W_\star)\, \Sigma\, (P W - W_\star)^\top + r, $$

    with $W$ the `product` of the network's layers and $P$ a readout that is not trained. A
    linear network meets its data only through these numbers, so a step costs the same for
    any sample size. Built from data by `regression`.

    Args:
        target: The least-squares solution $W_\star$ of smallest norm.
        covariance: The input second moments $\Sigma = X^\top X / n$.
        floor: The error $r$ that no linear map removes.
        readout: The fixed map $P$ after the last layer; none means the identity.
    """

    target: Float[Array, "out in"] = eqx.field(
        converter=real_array("Regression(target=...)")
    )
    covariance: Float[Array, "in in"] = eqx.field(
        converter=real_array("Regression(covariance=...)")
    )
    floor: Float[Array, ""] = eqx.field(converter=real_array("Regression(floor=...)"))
    readout: Float[Array, "out hidden"] | None = eqx.field(
        default=None, converter=optional_array("Regression(readout=...)")
    )

    def __check_init__(self):
        shapes = [jnp.shape(leaf) for leaf in (self.target, self.covariance, self.floor)]
        target, covariance, floor = shapes
        if len(target) != 2 or covariance != (target[1],) * 2 or floor:
            raise ValueError(
                "`Regression(target, covariance, floor)` must have the shapes (out, in), "
                f"(in, in) and (), but has {target}, {covariance} and {floor}."
            )
        if self.readout is not None and jnp.shape(self.readout)[:1] != target[:1]:
            raise ValueError(
                f"`Regression(readout=...)` must have a row for each of {target[0]} "
                f"outputs, but has shape {jnp.shape(self.readout)}."
            )

    def __rmul__(self, factor: ScalarLike) -> "Regression":
        """That of data which are larger by the root of the factor."""
        factor = _factor(factor).astype(self.covariance.dtype)
        scaled = factor * self.covariance, factor * self.floor
        return Regression(self.target, *scaled, self.readout)

    def outputs(self, network: PyTree) -> Float[Array, "out in"]:
        return self.linear_map(network)

    def criterion(self, outputs: Float[Array, "out in"]) -> Scalar:
        gap = outputs - self.target
        square = jnp.sum((gap @ self.covariance) * gap)
        # Of fewer samples than inputs rounding can make it negative; slopes stay.
        return square + jax.lax.stop_gradient(jnp.maximum(-square, 0))

    def least_excess(self, network: PyTree) -> Scalar | None:
        r"""That of the best map of the rank that fits through the narrowest layer.

        There are no other local minima (Baldi & Hornik, 1989, for two layers; Kawaguchi,
        2016). Unknown with a readout, and of networks that are not a `DeepLinear`.
        """
        if self.readout is not None or not isinstance(network, DeepLinear):
            return None
        narrowest = min(n for w in network.weights for n in w.shape)
        if narrowest == min(self.target.shape):
            return jnp.zeros((), self.target.dtype)
        variances, axes = decompositions.eigh(self.covariance)
        seen = self.target @ axes * jnp.sqrt(jnp.maximum(variances, 0))[None]
        return jnp.sum(decompositions.svdvals(seen)[narrowest:] ** 2)

    def linear_map(self, network: PyTree) -> Float[Array, "out in"]:
        r"""The end-to-end matrix $P W$, readout included.

        Raises:
            ValueError: If the network is not linear, or does not fit the data.
        """
        weights = _factors(network)
        layers = weights if self.readout is None else (*weights, self.readout)
        for wanted, given, what in (
            (self.target.shape[1], layers[0].shape[1], "accept the data's {} inputs"),
            (layers[-1].shape[1], weights[-1].shape[0], "feed the readout's {} inputs"),
            (self.target.shape[0], layers[-1].shape[0], "return the data's {} outputs"),
        ):
            if self.readout is None and "readout" in what:
                continue
            if wanted != given:
                widths = (weights[0].shape[1], *(w.shape[0] for w in weights))
                raise ValueError(
                    f"The network must {what.format(wanted)}, but has widths {widths}."
                )
        return chain(*reversed(layers))


def needs_regression(name: str, problem: Any, *, readout: bool = True) -> None:
    """Whether a problem is a `Regression`, if need be without a readout.

    Raises:
        TypeError: If it is another loss.
        ValueError: If it has a readout that it must not have.
    """
    way = "Build it with `regression(x, y)`."
    if isinstance(problem, Sum):
        way = "Of a sum pass the term."
    _checks.kind(name, problem, Regression, way)
    assert isinstance(problem, Regression)
    if not readout and problem.readout is not None:
        raise ValueError(
            f"`{name}` must have no readout, but has one of shape "
            f"{problem.readout.shape}. Train it as a last layer."
        )


def needs_linear(name: str, network: Any, problem: Regression | None = None) -> None:
    """Whether a network is a `DeepLinear` of real numbers, and fits a problem."""
    _checks.kind(f"{name}(network=...)", network, DeepLinear)
    _checks.weights(name, network)
    if problem is not None:
        jax.eval_shape(problem.linear_map, network)  # Raises if they do not fit.


def each(network: PyTree, x: Float[Array, "samples in"]) -> Array:
    """What a network makes of each sample.

    Raises:
        TypeError: If it is no function.
        ValueError: If it is none of one sample.
    """
    if not callable(network):
        raise TypeError(
            "A loss that holds samples needs a network that can be called with one, but is "
            f"given {_checks.brief(network)}. For a tree of weights pass a function of it."
        )
    try:
        return jax.vmap(network)(x)  # pyright: ignore[reportReturnType]
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"The network must accept a sample of shape {x.shape[1:]}, but fails: {error}"
        ) from error


def _factors(network: PyTree) -> tuple[Float[Array, "_ _"], ...]:
    """Matrices that multiply to what a linear network does."""
    if isinstance(network, DeepLinear):
        return network.weights
    product = getattr(network, "product", None)
    if product is None:
        raise ValueError(
            "The network must be linear, and have its matrix as `product`, but is a "
            f"`{type(network).__name__}`. For networks that are not linear use "
            "`MeanSquaredError(x, y)`."
        )
    return (product,)


class MeanSquaredError(AbstractLoss):
    r"""Mean squared error of any network, from samples.

    $\frac1n \sum_i \|P f(x_i) - y_i\|^2$, on a linear network equal to
    `regression(x, y, readout=P)`. It costs a pass over all samples at every call, and in
    return takes networks that are not linear, and mini-batches.

    Arguments and errors are those of `regression`.
    """

    x: Float[Array, "samples in"]
    y: Float[Array, "samples out"]
    readout: Float[Array, "out hidden"] | None = None

    def __init__(self, x, y, *, readout=None):
        self.x, self.y, self.readout = _check_data("MeanSquaredError", x, y, readout)

    @property
    def floor(self) -> Scalar:
        return jnp.zeros((), self.y.dtype)

    def outputs(self, network: PyTree) -> Float[Array, "samples out"]:
        return self.read(each(network, self.x))

    def read(self, outputs: Float[Array, "samples hidden"]) -> Float[Array, "samples out"]:
        """What the readout makes of what the network returns, if it fits."""
        if self.readout is not None:
            if outputs.shape[1:] != self.readout.shape[1:]:
                raise ValueError(
                    f"The network must feed the readout's {self.readout.shape[1]} inputs, "
                    f"but returns {outputs.shape[1:]}."
                )
            outputs = outputs @ self.readout.T
        if outputs.shape != self.y.shape:
            raise ValueError(
                f"The network must return {self.y.shape[1]} outputs for a sample, but "
                f"returns {outputs.shape[1:]}."
            )
        return outputs

    def criterion(self, outputs: Float[Array, "samples out"]) -> Scalar:
        return jnp.sum((outputs - self.y) ** 2) / self.y.shape[0]

    @property
    def samples(self) -> int:
        return self.y.shape[0]

    def select(self, indices: Int[Array, " batch"]) -> "MeanSquaredError":
        return MeanSquaredError(self.x[indices], self.y[indices], readout=self.readout)


class MatrixSensing(AbstractLoss):
    r"""Mean squared error of linear measurements of a linear network's matrix.

    $\frac1n \sum_i (\langle A_i, W \rangle - y_i)^2$ with $W$ the `product` of the network
    and $\langle A, W \rangle = \mathrm{tr}\, A^\top W$. Matrices $A_i$ with a single one
    are matrix completion. On a `DeepLinear` it is deep matrix factorization (Arora, Cohen,
    Hu & Luo, 2019), on a `SymmetricLinear` that of Gunasekar et al. (2017).

    Args:
        x: The $A_i$, of shape `(samples, out, in)`.
        y: What they measure, of shape `(samples,)`.

    Raises:
        ValueError: If there are no measurements, shapes do not fit, or numbers are not
            finite; or a network is not linear, or its matrix has another shape.
    """

    x: Float[Array, "samples out in"]
    y: Float[Array, " samples"]

    def __init__(self, x: ArrayLike, y: ArrayLike):
        x, y = self.x, self.y = _check_real("MatrixSensing", x=x, y=y)
        if x.ndim != 3 or y.shape != x.shape[:1] or 0 in x.shape:
            raise ValueError(
                "`MatrixSensing(x, y)` must hold a matrix and a number for each "
                f"measurement, but the shapes are {x.shape} and {y.shape}."
            )
        _check_finite("MatrixSensing", x=self.x, y=self.y)

    @property
    def floor(self) -> Scalar:
        return jnp.zeros((), self.y.dtype)

    def outputs(self, network: PyTree) -> Float[Array, " samples"]:
        matrix = chain(*reversed(_factors(network)))
        if matrix.shape != self.x.shape[1:]:
            raise ValueError(
                f"The network must have a product of shape {self.x.shape[1:]}, that of "
                f"what is measured, but has {matrix.shape}."
            )
        return jnp.tensordot(self.x, matrix, 2)

    def criterion(self, outputs: Float[Array, " samples"]) -> Scalar:
        return jnp.mean((outputs - self.y) ** 2)

    @property
    def samples(self) -> int:
        return self.y.shape[0]

    def select(self, indices: Int[Array, " batch"]) -> "MatrixSensing":
        which = lambda s: (s.x, s.y)
        return eqx.tree_at(which, self, (self.x[indices], self.y[indices]))


class CrossEntropy(AbstractLoss):
    r"""The cross-entropy of several classes, of any network that returns their logits.

    $$ \frac1n \sum_i -\log \frac{e^{f_{y_i}(x_i)}}{\sum_c e^{f_c(x_i)}}, $$

    in natural units, to full relative precision also where it is small. Of two classes and
    one output see `Classification`.

    Args:
        x: Inputs, of shape `(samples, in)`.
        labels: The classes $y_i$, integers from 0, of shape `(samples,)`.

    Raises:
        ValueError: If there are no samples, shapes do not fit, inputs are not finite, or
            labels are not integers from 0; or a network does not return a number for each
            class, of which there are two at least.
    """

    x: Float[Array, "samples in"]
    labels: Int[Array, " samples"]
    # The least number that there can be: known while compiling, where labels are not.
    classes: int = eqx.field(static=True)

    def __init__(self, x: ArrayLike, labels: ArrayLike):
        [x] = _check_real("CrossEntropy", x=x)
        try:
            labels = jnp.asarray(labels)
        except (TypeError, ValueError):
            raise TypeError(
                f"`CrossEntropy(labels=...)` must be integers, but are "
                f"{_checks.brief(labels)}."
            ) from None
        if x.ndim != 2 or labels.shape != x.shape[:1] or 0 in x.shape:
            raise ValueError(
                "`CrossEntropy(x, labels)` must hold one sample a row and one label each, "
                f"but the shapes are {x.shape} and {labels.shape}."
            )
        if not jnp.issubdtype(labels.dtype, jnp.integer):
            raise ValueError(
                "`CrossEntropy(labels=...)` must be integers, but are of type "
                f"{labels.dtype}. Pass `labels.astype(int)`, or `labels.argmax(axis=1)` of "
                "one column for each class."
            )
        self.x = x
        self.labels, self.classes = labels.astype(jnp.int32), 2
        _check_finite("CrossEntropy", x=self.x)
        if not isinstance(labels, Tracer):
            known = np.asarray(labels)  # While tracing, JAX would trace the minimum.
            least, most = int(known.min()), int(known.max())
            if most > 2**24:
                raise ValueError(
                    f"`CrossEntropy(labels=...)` must number the classes, but go up to "
                    f"{most}. Pass `numpy.unique(labels, return_inverse=True)[1]`."
                )
            if least < 0:
                raise ValueError(
                    f"`CrossEntropy(labels=...)` must count from 0, but go down to {least}."
                )
            self.classes = max(most + 1, 2)

    @property
    def floor(self) -> Scalar:
        return jnp.zeros((), self.x.dtype)

    def outputs(self, network: PyTree) -> Float[Array, "samples classes"]:
        outputs = each(network, self.x)
        if outputs.ndim != 2 or outputs.shape[1] < self.classes:
            raise ValueError(
                f"The network must return a number for each of {self.classes} classes, "
                f"with labels 0 to {self.classes - 1}, but returns {outputs.shape[1:]}."
            )
        return outputs

    def criterion(self, outputs: Float[Array, "samples classes"]) -> Scalar:
        # Differences first: near zero, that of two large logits would be all rounding.
        gaps, others = self._gaps(outputs)
        return jnp.mean(jax.nn.softplus(jax.nn.logsumexp(gaps, axis=1, where=others)))

    def margins(self, network: PyTree) -> Float[Array, " samples"]:
        r"""$f_{y_i}(x_i) - \max_{c \neq y_i} f_c(x_i)$: positive where it is right."""
        gaps, others = self._gaps(self.outputs(network))
        return -jnp.max(gaps, axis=1, where=others, initial=-jnp.inf)

    def errors(self, network: PyTree) -> Float[Array, ""]:
        """The share of samples that are wrong; what is not a number, or tied, is."""
        return jnp.mean(~(self.margins(network) > 0), dtype=self.x.dtype)

    def solved(self, network: PyTree) -> Bool[Array, ""]:
        return jnp.all(self.margins(network) > 0)

    def _gaps(self, outputs):
        """By how much each class exceeds the right one, and which are others."""
        labels = self.labels[:, None]
        classes = jnp.arange(outputs.shape[1], dtype=labels.dtype)
        right = jnp.take_along_axis(outputs, labels, axis=1)
        return outputs - right, classes[None] != labels

    @property
    def samples(self) -> int:
        return self.labels.shape[0]

    def select(self, indices: Int[Array, " batch"]) -> "CrossEntropy":
        which = lambda s: (s.x, s.labels)
        return eqx.tree_at(which, self, (self.x[indices], self.labels[indices]))


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


class WeightDecay(AbstractLoss):
    r"""The penalty $\gamma \|\theta\|^2$, which raises every curvature by $2\gamma$.

    Or $\sum_k \gamma_k \|W_k\|_F^2$, with a strength for each array of weights, the first
    layer first.

    Raises:
        ValueError: If a strength is negative, or, of a network, there is not one for each
            layer.
    """

    strength: Float[Array, "..."] = eqx.field(
        converter=strengths("WeightDecay(strength=...)")
    )

    def __check_init__(self):
        per_layer(self.strength, self.strength.size, "WeightDecay(strength=...)")

    @property
    def floor(self) -> Scalar:
        return jnp.zeros((), self.strength.dtype)

    def outputs(self, network: PyTree) -> PyTree[Array]:
        return eqx.filter(network, eqx.is_inexact_array)

    def criterion(self, outputs: PyTree[Array]) -> Scalar:
        leaves = jax.tree.leaves(outputs)
        if self.strength.ndim == 0:
            squares = sum(jnp.sum(w**2) for w in leaves)
            return self.strength.astype(leaves[0].dtype) * squares
        strengths = per_layer(self.strength, len(leaves), "WeightDecay(strength=...)")
        squares = jnp.stack([jnp.sum(w**2) for w in leaves])
        return jnp.sum(strengths.astype(squares.dtype) * squares)


@full_precision
def regression(
    x: ArrayLike, y: ArrayLike, *, readout: ArrayLike | None = None
) -> Regression:
    """The mean squared error on data `(x, y)`, reduced once to its moments.

    Nothing is centered or scaled. More inputs than samples and collinear inputs are fine:
    the target is then the least-squares solution of smallest norm. Differentiable in `x`
    and `y` as long as the rank of `x` does not change.

    Args:
        x: Inputs, of shape `(samples, in)`.
        y: Targets, of shape `(samples, out)`; `(samples,)` means one output.
        readout: A fixed map after the network, of shape `(out, hidden)`; `(hidden,)`
            means one output.

    Raises:
        ValueError: If there are no samples, shapes do not fit, or data are not finite.
    """
    x, y, readout = _check_data("regression", x, y, readout)
    return _moments(x, y, readout)


@jax.jit
def _moments(x, y, readout):
    # From the data and not from their covariance, which squares the condition number.
    target = (decompositions.pinv(x) @ y).T
    floor = jnp.sum((y - x @ target.T) ** 2) / x.shape[0]
    return Regression(target, x.T @ x / x.shape[0], floor, readout)


@full_precision
def regression_from_moments(
    covariance: ArrayLike, cross: ArrayLike, power: ScalarLike
) -> Regression:
    r"""The mean squared error on data of which only the second moments are known.

    Args:
        covariance: $E[x x^\top]$, of shape `(in, in)`.
        cross: $E[y x^\top]$, of shape `(out, in)`; `(in,)` means one output.
        power: $E \|y\|^2$.

    Raises:
        ValueError: If shapes do not fit, numbers are not finite, or no data have these
            moments.
    """
    given = {"covariance": covariance, "cross": cross, "power": power}
    covariance, cross, power = _check_real("regression_from_moments", **given)
    cross = jnp.atleast_2d(cross)
    if cross.ndim != 2 or covariance.shape != (cross.shape[1],) * 2 or power.ndim:
        raise ValueError(
            "`regression_from_moments(covariance, cross, power)` must have the shapes "
            f"(in, in), (out, in) and (), but has {covariance.shape}, {cross.shape} and "
            f"{power.shape}."
        )
    target = cross @ decompositions.pinv(covariance, hermitian=True)
    floor = power - jnp.sum(target * cross)
    if not any(isinstance(m, Tracer) for m in (covariance, cross, power)):
        _check_moments(covariance, cross, power, target)
    return Regression(target, covariance, jnp.maximum(floor, 0))


def _check_moments(covariance, cross, power, target):
    name = "`regression_from_moments"
    for what, value in (("covariance", covariance), ("cross", cross), ("power", power)):
        if not np.all(np.isfinite(value)):
            raise ValueError(f"{name}({what}=...)` must be finite, but is {value}.")
    covariance, cross, target = map(np.asarray, (covariance, cross, target))
    rounding = np.finfo(covariance.dtype).eps ** 0.5
    least, top = np.linalg.eigvalsh(covariance)[[0, -1]]
    if np.max(np.abs(covariance - covariance.T)) > rounding * abs(top):
        raise ValueError(f"{name}(covariance=...)` must be symmetric.")
    if least < -rounding * abs(top):
        raise ValueError(
            f"{name}(covariance=...)` must be positive semidefinite, but its least "
            f"eigenvalue is {least:.4g}."
        )
    missed = np.linalg.norm(cross - target @ covariance)
    if missed > rounding * np.linalg.norm(cross):
        raise ValueError(
            f"{name}(cross=...)` must be in the range of the covariance, as that of any "
            f"data is, but {missed / np.linalg.norm(cross):.4g} of it is outside. Project "
            "it, or add the inputs that it comes from."
        )
    explained = np.sum(target * cross)
    if power < explained * (1 - rounding):
        raise ValueError(
            f"{name}(power=...)` must be at least {explained:.4g}, which a linear map "
            f"explains, but is {power:.4g}."
        )


@full_precision
def denoising(x: ArrayLike, *, noise: ScalarLike) -> Regression:
    r"""The error of reconstructing `x` from `x` plus white normal noise, in expectation.

    $\frac1n \sum_i E_\xi \|W (x_i + \nu \xi) - x_i\|^2$ with standard normal $\xi$: that of
    infinitely many noisy copies of each sample. Nothing is centered.

    Args:
        x: Clean samples, of shape `(samples, in)`.
        noise: The standard deviation $\nu$ of the noise.

    Raises:
        ValueError: If there are no samples, they are not finite, or `noise` is negative.
    """
    x, _, _ = _check_data("denoising", x, x, None)
    noise = _checks.real("denoising(noise=...)", noise, _checks.NOT_NEGATIVE, dtype=x.dtype)
    variance = noise**2
    _, sizes, axes = decompositions.svd(x / x.shape[0] ** 0.5, full_matrices=False)
    seen = sizes > max(x.shape) * jnp.finfo(x.dtype).eps * sizes[0]  # More than rounding.
    clean = jnp.where(seen, sizes, 0) ** 2
    noisy = clean + variance
    kept = clean / jnp.where(noisy > 0, noisy, 1)
    target = (axes.T * kept[None]) @ axes
    covariance = (axes.T * clean[None]) @ axes + variance * jnp.eye(
        x.shape[1], dtype=x.dtype
    )
    return Regression(target, covariance, variance * jnp.sum(kept))


def whiten(problem: Regression) -> tuple[Regression, Float[Array, "in in"]]:
    r"""The same problem for inputs $z = \Sigma^{-1/2} x$, whose second moments are one.

    Its target is $W_\star \Sigma^{1/2}$. A network whose first layer is $W_1$ there is one
    with first layer $W_1 \Sigma^{-1/2}$ on the inputs as they were, with the same loss.

    Returns:
        The problem, and $\Sigma^{-1/2}$.

    Raises:
        ValueError: If the covariance is singular.
    """
    needs_regression("whiten(problem=...)", problem)
    variances, axes = decompositions.eigh(problem.covariance)
    if not isinstance(variances, Tracer):
        size, values = variances.size, np.asarray(variances)
        rank = int(np.sum(values > size * np.finfo(values.dtype).eps * values[-1]))
        if rank < size:
            raise ValueError(
                "`whiten` needs inputs that vary in all directions, but the covariance "
                f"has rank {rank} of {size}. Project the inputs onto its range, or add "
                "noise to them."
            )
    spread = jnp.sqrt(variances)
    root, inverse = (axes * s[None] @ axes.T for s in (spread, 1 / spread))
    white = jnp.eye(spread.size, dtype=spread.dtype)
    target = problem.target @ root
    return Regression(target, white, problem.floor, problem.readout), inverse


def _check_data(name, x, y, readout):
    x, y = _check_real(name, x=x, y=y)
    y = y[:, None] if y.ndim == 1 else y
    if x.ndim != 2 or y.ndim != 2 or len(x) != len(y):
        raise ValueError(
            f"`{name}(x, y)` must hold one sample a row in each, but the shapes are "
            f"{x.shape} and {y.shape}."
        )
    if 0 in x.shape or 0 in y.shape:
        raise ValueError(
            f"`{name}(x, y)` must hold data, but the shapes are {x.shape} and {y.shape}."
        )
    if readout is not None:
        readout = jnp.atleast_2d(_checks.numbers(f"{name}(readout=...)", readout))
        readout = readout.astype(x.dtype)
        if readout.ndim != 2 or readout.shape[0] != y.shape[1]:
            raise ValueError(
                f"`{name}(readout=...)` must have a row for each of {y.shape[1]} outputs, "
                f"but has shape {readout.shape}."
            )
    _check_finite(name, x=x, y=y, readout=readout)
    return x, y, readout


def _check_real(name, **arrays):
    """Real arrays of one precision."""
    found = [_checks.numbers(f"{name}({what}=...)", a) for what, a in arrays.items()]
    dtype = jnp.result_type(*found)
    return [a.astype(dtype) for a in found]


def _check_finite(name, **arrays):
    for what, values in arrays.items():
        if values is None or isinstance(values, Tracer):
            continue
        if bad := np.argwhere(~np.isfinite(np.asarray(values))).tolist():
            raise ValueError(
                f"`{name}({what}=...)` must be finite, but {len(bad)} of {values.size} "
                f"entries are not, the first at index {tuple(bad[0])}. Drop or fill them."
            )
