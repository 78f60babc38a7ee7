r"""What it descends: losses, scalar functions of a network that carry their data.

**One convention.** The squared error is $\frac1n \sum_i \|f(x_i) - y_i\|^2$: a mean over
samples, a sum over outputs, no factor one half; weight decay is $\gamma \|\theta\|^2$. For
any other convention multiply: `0.5 * loss` is a loss whose gradient, Hessian and sharpness
are half as large, and whose flow takes the same path at half the speed.
"""

from .base import AbstractLoss as AbstractLoss
from .regression import (
    Regression as Regression,
    whiten as whiten,
)
from .samples import (
    MeanSquaredError as MeanSquaredError,
    CrossEntropy as CrossEntropy,
    MatrixSensing as MatrixSensing,
)
from .noise import (
    ExpectedNoisyLoss as ExpectedNoisyLoss,
    SampledNoisyLoss as SampledNoisyLoss,
)
from .regularizers import WeightDecay as WeightDecay
from .functions import FunctionLoss as FunctionLoss
from .transforms import (
    Scheduled as Scheduled,
    Normalized as Normalized,
    Replicated as Replicated,
    replica_mean as replica_mean,
)
