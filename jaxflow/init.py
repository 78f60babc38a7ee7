r"""Where it starts: initial weights of deep linear networks, and of others.

All of these can be batched with `jax.vmap` over `key`, and differentiated in `scale`.
Weights have JAX's default precision, and the same key draws other numbers in another
precision: turn on float64 first, with `jax.config.update("jax_enable_x64", True)`.

A linear network with skip connections, $x \mapsto (I + A_L) \cdots (I + A_1) x$, is a
`DeepLinear` that starts near the identity: the gradient in $A_k$ is that in $I + A_k$.
"""

import functools as ft
import itertools as it
import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, ArrayLike, Float, PRNGKeyArray, ScalarLike

from . import _checks
from ._linalg import decompositions
from ._linalg.precision import full_precision
from .networks import ConvNet, DeepLinear
from .networks.committee import Committee
from .networks.fields import per_layer


def draw(
    widths: Sequence[int], initializer: Callable[..., Array], *, key: PRNGKeyArray
) -> DeepLinear:
    """Every layer drawn independently from an initializer of `jax.nn.initializers`.

    `draw(widths, jax.nn.initializers.lecun_normal(), key=key)` is the standard fan-in
    start; `he_normal`, `glorot_uniform` and the others work alike.

    Args:
        widths: Numbers of inputs, hidden neurons and outputs, $d_0, ..., d_L$.
        initializer: A function of a key, a shape `(inputs, outputs)` and a dtype.
        key: Randomness.

    Raises:
        ValueError: If `widths` names no layer, or a width is not positive.
    """
    widths = _check_widths("draw", widths)
    what = "a key, a shape and a dtype"
    _checks.function("init.draw(initializer=...)", initializer, what)
    dtype = jnp.result_type(float)
    keys = jr.split(_check_key("draw", key), len(widths) - 1)
    # JAX's initializers multiply from the right, and count inputs along the first axis.
    return DeepLinear(
        tuple(
            initializer(k, (inputs, outputs), dtype).T
            for k, (inputs, outputs) in zip(keys, it.pairwise(widths), strict=True)
        )
    )


def gaussian(widths: Sequence[int], *, scale: ScalarLike, key: PRNGKeyArray) -> DeepLinear:
    """Independent normal entries of standard deviation `scale`.

    Raises:
        ValueError: If `widths` names no layer, a width is not positive, or `scale` is
            negative or not finite.
    """
    widths = _check_widths("gaussian", widths)
    shapes = [(outputs, inputs) for inputs, outputs in it.pairwise(widths)]
    scale, key = _check_scale("gaussian", scale), _check_key("gaussian", key)
    return DeepLinear(_normal(shapes, scale, key))


def _normal(shapes, scale, key):
    """Arrays of normal numbers, with one deviation for all or one for each number."""
    ends = list(it.accumulate(math.prod(shape) for shape in shapes))
    # One draw for all layers: a generator for each takes seconds to compile.
    pieces = jnp.split(scale * jr.normal(key, (ends[-1],)), ends[:-1])
    return tuple(p.reshape(shape) for p, shape in zip(pieces, shapes, strict=True))


def orthogonal(
    widths: Sequence[int], *, scale: ScalarLike = 1.0, key: PRNGKeyArray
) -> DeepLinear:
    """Uniformly distributed (semi-)orthogonal layers, times `scale`.

    Raises:
        ValueError: If `widths` names no layer, a width is not positive, or `scale` is
            negative or not finite.
    """
    widths, key = _check_widths("orthogonal", widths), _check_key("orthogonal", key)
    scale = _check_scale("orthogonal", scale)
    return draw(widths, jax.nn.initializers.orthogonal(scale), key=key)


def residual(width: int, depth: int, *, scale: ScalarLike, key: PRNGKeyArray) -> DeepLinear:
    r"""Square layers near the identity, $W_k = I + \frac{s}{\sqrt{L d}} N_k$.

    The entries of $N_k$ are standard normal (Marion & Chizat, 2024, section on residual
    networks). One output needs a fixed readout: `Regression.from_data(x, y, readout=p)`.

    Raises:
        ValueError: If `width` or `depth` is not positive, or `scale` is negative or not
            finite.
    """
    width = _checks.whole("init.residual(width=...)", width)
    depth = _checks.whole("init.residual(depth=...)", depth)
    scale, key = _check_scale("residual", scale), _check_key("residual", key)
    noise = gaussian((width,) * (depth + 1), scale=1.0, key=key)
    size = scale / (depth * width) ** 0.5
    return jax.tree.map(
        lambda n: jnp.eye(width, dtype=n.dtype) + size.astype(n.dtype) * n, noise
    )


def identity(widths: Sequence[int]) -> DeepLinear:
    r"""A linear residual network with zero residuals: ones on the diagonals, else zeros.

    As many ones as the smallest width, in every layer, so that the start is balanced
    whatever the widths, and the flow stays balanced (Mulayoff & Michaeli, 2020, for square
    layers). Neurons beyond take no part.

    Raises:
        ValueError: If `widths` names no layer, or a width is not positive.
    """
    widths = _check_widths("identity", widths)
    ones = jnp.eye(min(widths))
    sizes = [(outputs, inputs) for inputs, outputs in it.pairwise(widths)]
    pad = lambda size: [(0, n - len(ones)) for n in size]
    return DeepLinear(tuple(jnp.pad(ones, pad(size)) for size in sizes))


def balanced(
    product: Float[Array, "out in"], depth: int, *, width: int | None = None
) -> DeepLinear:
    r"""The balanced factorization of a matrix: $W_{k+1}^\top W_{k+1} = W_k W_k^\top$.

    With $U S V^\top$ the singular value decomposition of `product`, the first layer is
    $S^{1/L} V^\top$, the last $U S^{1/L}$, and those between are $S^{1/L}$, padded by
    zeros to `width`.

    Args:
        product: What the layers multiply to.
        depth: The number of layers.
        width: Neurons in each hidden layer. Defaults to the smaller side of `product`.

    Raises:
        ValueError: If `depth` is not positive, `width` too small for any matrix of this
            shape, or `product` is no finite matrix.
    """
    product = _checks.real("init.balanced(product=...)", product, ndim=2)
    rank = min(product.shape)
    depth = _checks.whole("init.balanced(depth=...)", depth)
    width = rank if width is None else _checks.whole("init.balanced(width=...)", width)
    if width < rank:
        raise ValueError(
            f"`init.balanced(width=...)` must be at least {rank} for a product of shape "
            f"{product.shape}, but is {width}."
        )
    if depth == 1:
        return DeepLinear((product,))
    left, values, right = decompositions.svd(product, full_matrices=False)
    root = values ** (1 / depth)
    pad = (0, width - rank)
    first = jnp.pad(root[:, None] * right, (pad, (0, 0)))
    between = jnp.diag(jnp.pad(root, pad))
    last = jnp.pad(left * root[None], ((0, 0), pad))
    return DeepLinear((first, *(between,) * (depth - 2), last))


def factorization(
    product: Float[Array, "out in"],
    widths: Sequence[int],
    *,
    scale: ScalarLike,
    key: PRNGKeyArray,
) -> DeepLinear:
    r"""A random factorization of a matrix, balanced for `scale` 0 and less so for more.

    Each hidden representation of the balanced factorization is turned and stretched at
    random, $W_k \to G_k W_k G_{k-1}^{-1}$, with $\log$ singular values of $G_k$ of
    standard deviation `scale`. Neurons beyond the rank of the product are either written
    to and never read, or read and never written to, at random. Every factorization can be
    drawn.

    Args:
        product: What the layers multiply to.
        widths: Numbers of inputs, hidden neurons and outputs.
        scale: How far from balanced.
        key: Randomness.

    Raises:
        ValueError: If `widths` do not fit the product, a hidden layer is narrower than
            its rank (under a transformation, than its smaller side), or a number is not
            finite.
    """
    widths = _check_widths("factorization", widths)
    product = _checks.real("init.factorization(product=...)", product, ndim=2)
    scale = _check_scale("factorization", scale).astype(product.dtype)
    key = _check_key("factorization", key)
    if (widths[-1], widths[0]) != product.shape:
        raise ValueError(
            f"`init.factorization(widths=...)` must go from {product.shape[1]} inputs to "
            f"{product.shape[0]} outputs, those of the product, but is {tuple(widths)}."
        )
    left, values, right = decompositions.svd(product)
    rank = values.size
    if not isinstance(values, Tracer):
        rounding = max(product.shape) * np.finfo(values.dtype).eps * values[0]
        rank = int(np.sum(values > rounding))
    if len(widths) > 2 and min(widths[1:-1]) < rank:
        raise ValueError(
            "`init.factorization(widths=...)` must be at least the product's rank, "
            f"{rank}, in all hidden layers, but is {tuple(widths)}."
        )
    return _factorize(left, values, right, scale, key, widths=widths, rank=rank)


@ft.partial(jax.jit, static_argnames=("widths", "rank"))
@full_precision
def _factorize(left, values, right, scale, key, *, widths, rank):
    depth, dtype = len(widths) - 1, left.dtype
    gains = values[:rank] ** (1 / depth)
    size = gains[0] if rank else jnp.ones((), dtype)
    # Neurons that are only read (0), that carry the product (1), or are only written to.
    place = lambda k: jnp.arange(widths[k])
    kinds = [jnp.where(place(k) < rank, 1, 0) for k in range(depth + 1)]
    kinds[0] = 2 - kinds[0]
    layers, back = [], right
    for k, (inputs, outputs) in enumerate(it.pairwise(widths)):
        mix, stretch, turn, kind = jr.split(jr.fold_in(key, k), 4)
        if k < depth - 1:
            written = jr.bernoulli(kind, shape=(outputs,)) & (kinds[k + 1] == 0)
            kinds[k + 1] = jnp.where(written, 2, kinds[k + 1])
        then, before = kinds[k + 1][:, None], kinds[k][None]
        free = (then > before) | (then == before) & (then != 1)
        noise = jr.normal(mix, free.shape, dtype) / max(inputs, outputs) ** 0.5
        layer = jnp.where(free, scale * size * noise, 0)
        layer += jnp.pad(jnp.diag(gains), [(0, d - rank) for d in layer.shape])
        if k == depth - 1:
            layers.append(left @ layer @ back)
            break
        after, first = jr.orthogonal(turn, outputs, (2,), dtype)
        sizes = jnp.exp(scale * jr.normal(stretch, (outputs,), dtype))
        layers.append(after * sizes[None] @ first @ layer @ back)
        back = first.T / sizes[None] @ after.T
    return DeepLinear(tuple(layers))


def balanced_rank_one(
    widths: Sequence[int], *, scale: ScalarLike, key: PRNGKeyArray
) -> DeepLinear:
    r"""Random rank-one layers $W_k = s\, u_k u_{k-1}^\top$, balanced and aligned.

    The $u_k$ are unit vectors, drawn uniformly; the flow keeps this form.

    Raises:
        ValueError: If `widths` names no layer, a width is not positive, or `scale` is
            negative or not finite.
    """
    widths = _check_widths("balanced_rank_one", widths)
    scale = _check_scale("balanced_rank_one", scale)
    keys = jr.split(_check_key("balanced_rank_one", key), len(widths))
    gaussians = [jr.normal(k, (d,)) for k, d in zip(keys, widths, strict=True)]
    units = [g / jnp.linalg.norm(g) for g in gaussians]
    return DeepLinear(
        tuple(scale * jnp.outer(then, first) for first, then in it.pairwise(units))
    )


def convolutional(
    image: tuple[int, int, int],
    channels: Sequence[int],
    size: int,
    outputs: int,
    *,
    scale: ArrayLike,
    activation: Callable[[Array], Array],
    stride: int = 1,
    key: PRNGKeyArray,
) -> ConvNet:
    r"""A `ConvNet` with independent normal entries of standard deviation `scale`.

    He's start for rectifiers has $\sqrt{2 / n}$ in each layer, with the fan-in $n$: the
    channels before times `size**2` for convolutions, all features for the readout.

    Args:
        image: Channels, height and width of an input.
        channels: Channels behind each convolution.
        size: Height and width of all kernels.
        outputs: The number of outputs.
        scale: One number, or one for each layer, that of the readout last.
        activation: The function behind each convolution.
        stride: The step of every convolution.
        key: Randomness.

    Raises:
        ValueError: If there is no convolution, a number is not positive, or there is not
            one scale for each layer.
    """
    name = "init.convolutional({}=...)".format
    sizes = _checks.widths(name("image"), image, 3)
    channels = _checks.widths(name("channels"), channels, 1)
    if len(sizes) != 3:
        raise ValueError(
            f"`{name('image')}` must be the channels, height and width of an image, but is "
            f"{sizes}."
        )
    image = (sizes[0], sizes[1], sizes[2])
    size, outputs, stride = (
        _checks.whole(name(what), given)
        for what, given in (("size", size), ("outputs", outputs), ("stride", stride))
    )
    _checks.function(name("activation"), activation, "one number")
    key = _check_key("convolutional", key)
    pairs = it.pairwise((image[0], *channels))
    shapes: list[tuple[int, ...]]
    shapes = [(after, before, size, size) for before, after in pairs]
    height, width = image[1:]
    for _ in channels:
        height, width = -(-height // stride), -(-width // stride)
    shapes.append((outputs, channels[-1] * height * width))
    scales = per_layer(scale, len(shapes), name("scale"))
    each = jnp.repeat(scales, np.array([math.prod(shape) for shape in shapes]))
    *kernels, readout = _normal(shapes, each, key)
    return ConvNet(tuple(kernels), readout, activation, image, stride)


def committee(
    hidden: int,
    inputs: int,
    *,
    tree: bool = True,
    unit: Callable[[Array], Array] | None = jnp.sign,
    vote: str = "sum",
    key: PRNGKeyArray,
) -> Committee:
    r"""A `Committee` whose units have uniformly random weights with $\|w_k\|^2 = n$.

    Args:
        hidden: The number $K$ of hidden units; 1 with `unit=None` is the perceptron.
        inputs: The number $N$ of inputs, a multiple of `hidden` for a tree.
        tree: Whether each unit sees inputs of its own, $n = N / K$ of them.
        unit: The activation of the units.
        vote: How they vote.
        key: Randomness.

    Raises:
        ValueError: If a number is not positive, inputs cannot be shared among the units of
            a tree, or votes could tie.
    """
    hidden = _checks.whole("init.committee(hidden=...)", hidden)
    inputs = _checks.whole("init.committee(inputs=...)", inputs)
    key = _check_key("committee", key)
    if tree and inputs % hidden:
        raise ValueError(
            "`init.committee(inputs=...)` must be a multiple of `hidden` for a tree, but "
            f"is {inputs} for {hidden} units. The next is "
            f"{hidden * (inputs // hidden + 1)}."
        )
    n = inputs // hidden if tree else inputs
    drawn = jr.normal(key, (hidden, n))
    norms = jnp.linalg.norm(drawn, axis=1, keepdims=True)
    return Committee(drawn * (n**0.5 / norms), tree, unit, vote)


def _check_widths(name: str, widths: Sequence[int]) -> tuple[int, ...]:
    return _checks.widths(f"init.{name}(widths=...)", widths, layers=2)


def _check_scale(name: str, scale: ScalarLike) -> Array:
    return _checks.real(f"init.{name}(scale=...)", scale, _checks.NOT_NEGATIVE, dtype=float)


def _check_key(name: str, key: PRNGKeyArray) -> PRNGKeyArray:
    return _checks.key(f"init.{name}(key=...)", key)
