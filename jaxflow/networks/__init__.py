"""What moves: networks, as PyTrees whose only leaves are their weights."""

from .layered import (
    AbstractLayered as AbstractLayered,
    AbstractDense as AbstractDense,
    DeepLinear as DeepLinear,
    MLP as MLP,
    ResidualMLP as ResidualMLP,
)
from .convolutional import ConvNet as ConvNet
from .diagonal import (
    DiagonalLinear as DiagonalLinear,
    SymmetricLinear as SymmetricLinear,
)
from .noisy import (
    NoisyNetwork as NoisyNetwork,
    gaussian_factors as gaussian_factors,
    dropout_factors as dropout_factors,
)
