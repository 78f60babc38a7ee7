"""Convolutional networks."""

import math
from collections.abc import Callable

import equinox as eqx
import jax
from jaxtyping import Array, Float

from .. import _checks
from .fields import activation_function, array_tuple, real_array
from .layered import AbstractLayered


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
        converter=array_tuple("ConvNet(kernels=...)")
    )
    readout: Float[Array, "out features"] = eqx.field(
        converter=real_array("ConvNet(readout=...)")
    )
    activation: Callable[[Array], Array] = eqx.field(
        static=True, converter=activation_function("ConvNet(activation=...)")
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
