"""What moves: networks, as PyTrees whose only leaves are their weights."""

import abc
import functools as ft
import itertools as it
import math
from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, ArrayLike, Float, PRNGKeyArray, Scalar, ScalarLike

from . import _checks


def _arrays(name: str):
    """Layers as a tuple of real arrays, also from lists and NumPy."""

    def convert(weights: Sequence[ArrayLike]) -> tuple[Array, ...]:
        if not isinstance(weights, tuple | list):
            raise TypeError(
                f"`{name}` must be a tuple of arrays, but is {_checks.brief(weights)}."
            )
        return tuple(_as_array(f"{name}[{k}]", weight) for k, weight in enumerate(weights))

    return convert


def real_array(name: str):
    """A real array, also from lists and NumPy."""

    def convert(array: ArrayLike) -> Array:
        return _as_array(name, array)

    return convert


def optional_array(name: str):
    """The same, or none."""

    def convert(array: ArrayLike | None) -> Array | None:
        return None if array is None else _as_array(name, array)

    return convert


def _as_array(name, array) -> Any:
    abstract = isinstance(array, jax.ShapeDtypeStruct)
    return array if abstract else _checks.numbers(name, array)


def _activation(name: str):
    def convert(activation: Callable[[Array], Array]):
        _checks.function(name, activation, "one number")
        return activation

    return convert


def strengths(name: str):
    """Numbers of the default precision, of which `per_layer` says whether they fit."""

    def convert(values: ArrayLike | Sequence[ScalarLike]) -> Array:
        return _checks.real(name, values, _checks.REAL, dtype=float, ndim=None)

    return convert


class AbstractLayered(eqx.Module):
    """A network of layers between flat vectors, each with weights of its own."""

    @property
    @abc.abstractmethod
    def widths(self) -> tuple[int, ...]:
        r"""The numbers $d_0, \dots, d_L$ of inputs, hidden neurons and outputs."""

    @property
    def depth(self) -> int:
        """The number of layers $L$."""
        return len(self.widths) - 1

    @abc.abstractmethod
    def layer(self, k: int, h: Float[Array, " in"]) -> Float[Array, " out"]:
        """What layer `k`, from 0, makes of what the one before it returned."""

    def __call__(self, x: Float[Array, " in"]) -> Float[Array, " out"]:
        """The output for one input."""
        if x.shape != (self.widths[0],):
            raise ValueError(
                f"The network must accept {x.size} inputs, but has widths {self.widths}."
            )
        return ft.reduce(lambda h, k: self.layer(k, h), range(self.depth), x)

    def linearized(self, x: Float[Array, " in"]) -> "DeepLinear":
        r"""The Jacobian of each layer at one input, as the layers of a linear network.

        Their product is the Jacobian of the network at `x`. What is measured of linear
        networks is so measured of others, input by input, with `jax.vmap` over `x`.
        """
        jacobians = []
        for k in range(self.depth):
            jacobians.append(jax.jacfwd(ft.partial(self.layer, k))(x))
            x = self.layer(k, x)
        return DeepLinear(tuple(jacobians))


class AbstractDense(AbstractLayered):
    """A network of layers, each with one weight matrix and no bias."""

    weights: eqx.AbstractVar[tuple[Float[Array, "_ _"], ...]]

    def __check_init__(self):
        name = f"`{type(self).__name__}(weights=...)`"
        if not self.weights:
            raise ValueError(f"{name} must hold a layer, but is empty.")
        for k, weight in enumerate(self.weights, start=1):
            if weight.ndim != 2:
                raise ValueError(
                    f"{name} must hold matrices, but layer {k} has shape {weight.shape}. "
                    "Build a batch of networks with `jax.vmap`."
                )
        for k, (first, then) in enumerate(it.pairwise(self.weights), start=1):
            if then.shape[1] != first.shape[0]:
                raise ValueError(
                    f"{name} must chain, but layer {k} returns {first.shape[0]} numbers "
                    f"and layer {k + 1} accepts {then.shape[1]} (shapes {first.shape} and "
                    f"{then.shape})."
                )

    @property
    def widths(self) -> tuple[int, ...]:
        return (self.weights[0].shape[1], *(w.shape[0] for w in self.weights))


class DeepLinear(AbstractDense):
    r"""The deep linear map $x \mapsto W_L \cdots W_1 x$.

    A network is nothing but its weights, so a gradient, a velocity or a Hessian
    eigenvector of a `DeepLinear` is again a `DeepLinear`, with the same methods. A readout
    that is not trained therefore belongs to the problem: `regression(x, y, readout=p)`.

    Args:
        weights: Factors in the order they act, $W_1$ first. Each accepts what the one
            before it returns; any of them may be rectangular.

    Raises:
        ValueError: If there are no factors, or they do not chain.
    """

    weights: tuple[Float[Array, "_ _"], ...] = eqx.field(
        converter=_arrays("DeepLinear(weights=...)")
    )

    @property
    def product(self) -> Float[Array, "out in"]:
        r"""The end-to-end matrix $W_L \cdots W_1$."""
        return chain(*reversed(self.weights))

    @property
    def from_input(self) -> tuple[Float[Array, "_ in"], ...]:
        r"""The partial products $I, W_1, W_2 W_1, \dots, W_L \cdots W_1$."""
        start = jnp.eye(self.widths[0], dtype=self.weights[0].dtype)
        return tuple(it.accumulate(self.weights, lambda a, w: w @ a, initial=start))

    @property
    def to_output(self) -> tuple[Float[Array, "out _"], ...]:
        r"""The partial products $W_L \cdots W_1, \dots, W_L W_{L-1}, W_L, I$.

        `to_output[k] @ from_input[k]` is the end-to-end matrix for every $k = 0..L$.
        """
        start = jnp.eye(self.widths[-1], dtype=self.weights[0].dtype)
        products = it.accumulate(reversed(self.weights), lambda b, w: b @ w, initial=start)
        return tuple(products)[::-1]

    def layer(self, k: int, h: Float[Array, " in"]) -> Float[Array, " out"]:
        return self.weights[k] @ h


class MLP(AbstractDense):
    r"""The multilayer perceptron $x \mapsto W_L\, \sigma(W_{L-1} \cdots \sigma(W_1 x))$.

    It has no biases, and no activation behind its last layer. The starts of `init` serve:
    `MLP(init.gaussian(widths, scale=0.4, key=key).weights, jax.nn.gelu)`.

    Args:
        weights: Layers in the order they act, as in `DeepLinear`.
        activation: The function $\sigma$ of one number, such as `jax.nn.gelu` or
            `jnp.tanh`. Compared by identity, so define it once.

    Raises:
        ValueError: If there are no layers, or they do not chain.
    """

    weights: tuple[Float[Array, "_ _"], ...] = eqx.field(
        converter=_arrays("MLP(weights=...)")
    )
    activation: Callable[[Array], Array] = eqx.field(
        static=True, converter=_activation("MLP(activation=...)")
    )

    def layer(self, k: int, h: Float[Array, " in"]) -> Float[Array, " out"]:
        before = self.weights[k] @ h
        return before if k == self.depth - 1 else jax.vmap(self.activation)(before)


class ResidualMLP(AbstractDense):
    r"""The residual network $h_k = h_{k-1} + W_k\, \sigma(h_{k-1})$, from $h_0 = x$.

    All layers are square; a fixed map to fewer outputs is the loss's `readout`. The starts
    of `init` serve, with `scale=0.0` for zero residuals. Without an activation it would be
    a `DeepLinear` that starts at `init.identity`.

    Args:
        weights: Square layers in the order they act.
        activation: The function $\sigma$ of one number. Compared by identity.

    Raises:
        ValueError: If there are no layers, or they are not square.
    """

    weights: tuple[Float[Array, "_ _"], ...] = eqx.field(
        converter=_arrays("ResidualMLP(weights=...)")
    )
    activation: Callable[[Array], Array] = eqx.field(
        static=True, converter=_activation("ResidualMLP(activation=...)")
    )

    def __check_init__(self):
        if len(set(self.widths)) > 1:
            raise ValueError(
                "`ResidualMLP(weights=...)` must be square, for each layer adds to what "
                f"it is given, but has widths {self.widths}. Map to other numbers of "
                "outputs by the loss's `readout`."
            )

    def layer(self, k: int, h: Float[Array, " in"]) -> Float[Array, " out"]:
        return h + self.weights[k] @ jax.vmap(self.activation)(h)


class DiagonalLinear(eqx.Module):
    r"""The diagonal linear network $x \mapsto \langle w, x \rangle$, with one output.

    $$ w = (u_1 \odot \cdots \odot u_L)^p - (v_1 \odot \cdots \odot v_L)^p, $$

    entry by entry. Two `positive` rows are $u \odot v$; one of each and a `power` are
    $u^D - v^D$ (Woodworth et al., 2020), `DiagonalLinear(u[None], v[None], power=D)`.

    Args:
        positive: The layers $u_1, \dots, u_L$, one a row.
        negative: The layers $v_1, \dots, v_M$ of what is taken away, one a row; none
            means that nothing is.
        power: How often the layers are repeated, $p$, with the same weights.

    Raises:
        ValueError: If layers are not the rows of matrices with the same number of inputs,
            or the power is not positive.
    """

    positive: Float[Array, "layers in"] = eqx.field(
        converter=real_array("DiagonalLinear(positive=...)")
    )
    negative: Float[Array, "_ _"] | None = eqx.field(
        default=None, converter=optional_array("DiagonalLinear(negative=...)")
    )
    power: int = eqx.field(static=True, default=1)

    def __check_init__(self):
        inputs = self.positive.shape[-1:]
        for name, layers in (("positive", self.positive), ("negative", self.negative)):
            if layers is None:
                continue
            if layers.ndim != 2 or 0 in layers.shape or layers.shape[1:] != inputs:
                raise ValueError(
                    f"`DiagonalLinear({name}=...)` must hold a layer a row, with as many "
                    f"inputs as the others, but has shape {layers.shape}, and `positive` "
                    f"{self.positive.shape}. A single layer `u` is `u[None]`."
                )
        _checks.whole("DiagonalLinear(power=...)", self.power)

    @property
    def product(self) -> Float[Array, "1 in"]:
        """The end-to-end row $w$, as a matrix."""
        row = jnp.prod(self.positive, axis=0) ** self.power
        if self.negative is not None:
            row -= jnp.prod(self.negative, axis=0) ** self.power
        return row[None]

    def __call__(self, x: Float[Array, " in"]) -> Float[Array, " 1"]:
        """The output for one input."""
        return _apply(self.product, x)


class SymmetricLinear(eqx.Module):
    r"""The symmetric linear map $x \mapsto U U^\top x$, of one factor that acts twice.

    A linear autoencoder with tied weights; on
    `regression_from_moments(I, A, jnp.sum(A**2))` the symmetric factorization
    $\|U U^\top - A\|_F^2$ of a matrix.

    Args:
        factor: The matrix $U$, of shape `(in, hidden)`.

    Raises:
        ValueError: If the factor is no matrix.
    """

    factor: Float[Array, "in hidden"] = eqx.field(
        converter=real_array("SymmetricLinear(factor=...)")
    )

    def __check_init__(self):
        if self.factor.ndim != 2:
            raise ValueError(
                "`SymmetricLinear(factor=...)` must be a matrix, but has shape "
                f"{self.factor.shape}. Build a batch of networks with `jax.vmap`."
            )

    @property
    def product(self) -> Float[Array, "in in"]:
        r"""The end-to-end matrix $U U^\top$."""
        return self.factor @ self.factor.T

    def __call__(self, x: Float[Array, " in"]) -> Float[Array, " in"]:
        """The output for one input."""
        return _apply(self.factor, _apply(self.factor.T, x))


def _apply(matrix, x):
    if x.shape != matrix.shape[1:]:
        raise ValueError(
            f"The network must accept inputs of shape {x.shape}, but accepts those of "
            f"shape {matrix.shape[1:]}."
        )
    return matrix @ x


class ConvNet(AbstractLayered):
    r"""A convolutional network of images that are given as flat vectors.

    Convolutions (as everywhere in machine learning, correlations) with an activation behind
    each, and a dense layer. There are no biases. Images are surrounded by as many zeros as
    it takes to keep their size; with a stride $s$ every convolution divides it by $s$, and
    rounds up. All layers are maps between flat vectors, so that whatever takes a layered
    network takes this one; `linearized` has their Jacobians as dense matrices.

    Args:
        kernels: Of each convolution the weights, of shape `(channels after, channels
            before, height, width)`.
        readout: The last layer, of shape `(out, features)`.
        activation: The function $\sigma$ of one number. Compared by identity.
        image: Channels, height and width of an input, which is `image.ravel()`.
        stride: The step $s$ of every convolution.

    Raises:
        ValueError: If there are no convolutions, layers do not chain, or a size is not
            positive.
    """

    kernels: tuple[Float[Array, "_ _ _ _"], ...] = eqx.field(
        converter=_arrays("ConvNet(kernels=...)")
    )
    readout: Float[Array, "out features"] = eqx.field(
        converter=real_array("ConvNet(readout=...)")
    )
    activation: Callable[[Array], Array] = eqx.field(
        static=True, converter=_activation("ConvNet(activation=...)")
    )
    image: tuple[int, int, int] = eqx.field(static=True)
    stride: int = eqx.field(static=True, default=1)

    def __check_init__(self):
        sizes = _checks.widths("ConvNet(image=...)", self.image)
        _checks.whole("ConvNet(stride=...)", self.stride)
        if not isinstance(self.image, tuple) or len(sizes) != 3:
            raise ValueError(
                "`ConvNet(image=...)` must be a tuple of the channels, height and width of "
                f"an image, but is {self.image}."
            )
        if not self.kernels:
            raise ValueError("`ConvNet(kernels=...)` must hold a kernel, but is empty.")
        channels = self.image[0]
        for k, kernel in enumerate(self.kernels, start=1):
            if kernel.ndim != 4 or 0 in kernel.shape or kernel.shape[1] != channels:
                raise ValueError(
                    f"`ConvNet(kernels=...)` must chain, but layer {k} has shape "
                    f"{kernel.shape}, where (channels, {channels}, height, width) fits. "
                    "Build a batch of networks with `jax.vmap`."
                )
            channels = kernel.shape[0]
        features = math.prod(self.shapes[-1])
        if self.readout.ndim != 2 or self.readout.shape[1] != features:
            raise ValueError(
                f"`ConvNet(readout=...)` must be a matrix with {features} columns, for "
                f"features of shape {self.shapes[-1]}, but has shape {self.readout.shape}."
            )

    @property
    def shapes(self) -> tuple[tuple[int, int, int], ...]:
        """Channels, height and width of the input and behind each convolution."""
        shapes = [self.image]
        for kernel in self.kernels:
            height, width = (-(-size // self.stride) for size in shapes[-1][1:])
            shapes.append((kernel.shape[0], height, width))
        return tuple(shapes)

    @property
    def widths(self) -> tuple[int, ...]:
        return (*map(math.prod, self.shapes), self.readout.shape[0])

    def layer(self, k: int, h: Float[Array, " in"]) -> Float[Array, " out"]:
        if k == len(self.kernels):
            return self.readout @ h
        images, strides = h.reshape(1, *self.shapes[k]), (self.stride, self.stride)
        before = jax.lax.conv_general_dilated(images, self.kernels[k], strides, "SAME")
        return jax.vmap(self.activation)(before.ravel())


class Committee(eqx.Module):
    r"""A committee machine: hidden units that vote, of which only the first layer learns.

    Fields $h_k = w_k \cdot x_k / \sqrt n$ pass through a unit, $g(h_k)$, and vote on the
    output, whose sign is the class: by their sum or difference over $\sqrt K$, or by their
    product. One unit without an activation is the perceptron.

    Args:
        weights: One row for each of $K$ hidden units, of shape `(hidden, in)`.
        tree: Whether each unit sees inputs of its own, $x = (x_1, \dots, x_K)$, and not
            all of them.
        unit: The activation $g$ of one number, such as `jnp.sign`, `jax.nn.relu` or, for
            none, `None`. Compared by identity.
        vote: `"sum"`; `"difference"` between the first half of the units and the rest, for
            units that are never negative; or `"product"`, the parity machine.

    Raises:
        ValueError: If weights are no matrix, a majority of signs can tie because
            their number is even, or that for a difference is odd.
    """

    weights: Float[Array, "hidden in"] = eqx.field(
        converter=real_array("Committee(weights=...)")
    )
    tree: bool = eqx.field(static=True, default=True)
    unit: Callable[[Array], Array] | None = eqx.field(static=True, default=jnp.sign)
    vote: str = eqx.field(static=True, default="sum")

    def __check_init__(self):
        if self.weights.ndim != 2:
            raise ValueError(
                "`Committee(weights=...)` must be a matrix with a row for each hidden "
                f"unit, but has shape {self.weights.shape}."
            )
        hidden = self.weights.shape[0]
        if self.unit is not None:
            _checks.function("Committee(unit=...)", self.unit, "one number")
        _checks.choice("Committee(vote=...)", self.vote, ("sum", "difference", "product"))
        if self.vote == "difference" and hidden % 2:
            raise ValueError(
                '`Committee(vote="difference")` must have as many units for as against, '
                f"but has {hidden}. Use an even number."
            )
        if self.vote == "sum" and self.unit is jnp.sign and hidden % 2 == 0:
            raise ValueError(
                '`Committee(vote="sum")` of signs must have an odd number of units, or '
                f"votes tie, but has {hidden}."
            )

    @property
    def inputs(self) -> int:
        """The number $N$ of inputs, which is $K n$ for a tree and $n$ otherwise."""
        return self.weights.size if self.tree else self.weights.shape[1]

    def fields(self, x: Float[Array, " in"]) -> Float[Array, " hidden"]:
        r"""The fields $h_k = w_k \cdot x_k / \sqrt n$ for one input.

        Raises:
            ValueError: If the number of inputs is another.
        """
        if x.shape != (self.inputs,):
            hidden, n = self.weights.shape
            each = f"{n} for each of {hidden} units" if self.tree else "for all units"
            raise ValueError(
                f"The committee must see {self.inputs} inputs ({each}), but is given "
                f"{x.shape}."
            )
        x = x.reshape(self.weights.shape) if self.tree else x[None]
        return jnp.sum(self.weights * x, axis=1) / self.weights.shape[1] ** 0.5

    def decide(self, votes: Float[Array, " hidden"]) -> Float[Array, " 1"]:
        """The output, of what each unit says."""
        if self.vote == "product":
            return jnp.prod(votes, keepdims=True)
        sides = np.ones(votes.size)
        if self.vote == "difference":
            sides[votes.size // 2 :] = -1
        total = jnp.sum(jnp.asarray(sides, votes.dtype) * votes, keepdims=True)
        return total / votes.size**0.5

    def __call__(self, x: Float[Array, " in"]) -> Float[Array, " 1"]:
        """The output for one input; its sign is the class."""
        fields = self.fields(x)
        return self.decide(fields if self.unit is None else self.unit(fields))

    def smooth(self, x: Float[Array, " in"], gain: Scalar) -> Float[Array, " 1"]:
        r"""The output with $\tanh(\beta h)$ for the sign of $h$, which has a slope."""
        if self.unit is not jnp.sign:
            return self(x)
        return self.decide(jnp.tanh(gain * self.fields(x)))


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


def per_layer(
    values: ArrayLike | Sequence[ScalarLike],
    layers: int,
    name: str,
    *,
    positive: bool = False,
) -> Float[Array, " layers"]:
    """One number for each layer, of one for all or of as many.

    Raises:
        ValueError: If there are neither one nor `layers`, one is not finite, or negative,
            or zero where they must be `positive`. Where that is known while tracing.
    """
    must = _checks.POSITIVE if positive else _checks.NOT_NEGATIVE
    array = _checks.real(name, values, must, ndim=None)
    if array.ndim and array.shape != (layers,):
        raise ValueError(
            f"`{name}` must be one number, or one for each of {layers} layers, but has "
            f"shape {array.shape}."
        )
    return jnp.broadcast_to(array, (layers,))


def chain(*factors: Float[Array, "_ _"]) -> Float[Array, "_ _"]:
    """The product of matrices, taken from its thinner end.

    Outputs are usually few, and then every step costs a vector times a matrix.
    """
    if factors[0].shape[0] <= factors[-1].shape[1]:
        return ft.reduce(jnp.matmul, factors)
    return ft.reduce(lambda right, left: left @ right, reversed(factors))
