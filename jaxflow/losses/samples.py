"""Losses that are means over samples, for any network."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import (
    Array,
    ArrayLike,
    Bool,
    Float,
    Int,
    PyTree,
    Scalar,
)

from .. import _checks
from ..networks import DeepLinear
from ..networks.layered import chain
from .base import AbstractLoss
from .data import check_data, check_finite, check_real


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


def factors_of(network: PyTree) -> tuple[Float[Array, "_ _"], ...]:
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
    `Regression.from_data(x, y, readout=P)`. It costs a pass over all samples at every
    call, and in return takes networks that are not linear, and mini-batches.

    Arguments and errors are those of `Regression.from_data`.
    """

    x: Float[Array, "samples in"]
    y: Float[Array, "samples out"]
    readout: Float[Array, "out hidden"] | None = None

    def __init__(self, x, y, *, readout=None):
        self.x, self.y, self.readout = check_data("MeanSquaredError", x, y, readout)

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
        x, y = self.x, self.y = check_real("MatrixSensing", x=x, y=y)
        if x.ndim != 3 or y.shape != x.shape[:1] or 0 in x.shape:
            raise ValueError(
                "`MatrixSensing(x, y)` must hold a matrix and a number for each "
                f"measurement, but the shapes are {x.shape} and {y.shape}."
            )
        check_finite("MatrixSensing", x=self.x, y=self.y)

    @property
    def floor(self) -> Scalar:
        return jnp.zeros((), self.y.dtype)

    def outputs(self, network: PyTree) -> Float[Array, " samples"]:
        matrix = chain(*reversed(factors_of(network)))
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
        [x] = check_real("CrossEntropy", x=x)
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
        check_finite("CrossEntropy", x=self.x)
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
