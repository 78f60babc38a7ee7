"""The public names, in the order that data flows through them."""

__version__: str

# What moves, and where it starts
from . import networks as networks, init as init
from .networks import DeepLinear as DeepLinear, MLP as MLP

# What it descends
from . import losses as losses
from .losses import (
    AbstractLoss as AbstractLoss,
    Regression as Regression,
    MeanSquaredError as MeanSquaredError,
    CrossEntropy as CrossEntropy,
    WeightDecay as WeightDecay,
)

# How it moves
from . import dynamics as dynamics
from .dynamics import (
    gradient_flow as gradient_flow,
    gradient_descent as gradient_descent,
    central_flow as central_flow,
    Trajectory as Trajectory,
    Status as Status,
)

# What we measure: all (loss, network, ...) -> arrays
from . import observables as observables
from .observables import (
    loss_value as loss_value,
    weights as weights,
    hessian as hessian,
    sharpness as sharpness,
    spectrum as spectrum,
    alignment as alignment,
    imbalance as imbalance,
)

# Machines that classify patterns: problems, searches, flatness
from . import committee as committee

# What papers predict: papers.<paper>.<quantity>(loss, ...)
from . import papers as papers

# Many runs, where they are kept, and how they are seen
from .sweeps import sweep as sweep, save as save, load as load
from .plotting import plot as plot
