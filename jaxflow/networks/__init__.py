"""What moves: networks, as PyTrees whose only leaves are their weights."""

from .convolutional import (
    ConvNet as ConvNet,
)
from .diagonal import (
    DiagonalLinear as DiagonalLinear,
    SymmetricLinear as SymmetricLinear,
)
from .layered import (
    MLP as MLP,
    AbstractDense as AbstractDense,
    AbstractLayered as AbstractLayered,
    DeepLinear as DeepLinear,
    ResidualMLP as ResidualMLP,
)
from .noisy import (
    NoisyNetwork as NoisyNetwork,
    dropout_factors as dropout_factors,
    gaussian_factors as gaussian_factors,
)
