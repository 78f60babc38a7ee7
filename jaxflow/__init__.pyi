"""The public names, in the order that data flows through them."""

__version__: str

# What moves, where it starts
from .networks import (
    DeepLinear as DeepLinear,
    MLP as MLP,
    ResidualMLP as ResidualMLP,
    ConvNet as ConvNet,
    DiagonalLinear as DiagonalLinear,
    SymmetricLinear as SymmetricLinear,
    Committee as Committee,
    StochasticNeurons as StochasticNeurons,
    gaussian_factors as gaussian_factors,
    dropout_factors as dropout_factors,
)
from . import init as init

# What it descends
from .losses import (
    AbstractLoss as AbstractLoss,
    Regression as Regression,
    regression as regression,
    regression_from_moments as regression_from_moments,
    denoising as denoising,
    whiten as whiten,
    MeanSquaredError as MeanSquaredError,
    CrossEntropy as CrossEntropy,
    MatrixSensing as MatrixSensing,
    NoisyNeurons as NoisyNeurons,
    SampledNeurons as SampledNeurons,
    WeightDecay as WeightDecay,
)
from .variants import (
    Annealed as Annealed,
    Normalised as Normalised,
    Replicated as Replicated,
    centre as centre,
)
from .modules import FunctionLoss as FunctionLoss
from .patterns import (
    Classification as Classification,
    random_patterns as random_patterns,
    teacher_patterns as teacher_patterns,
    mixture_patterns as mixture_patterns,
)

# How it moves
from .dynamics import (
    gradient_flow as gradient_flow,
    ExponentialRosenbrock as ExponentialRosenbrock,
    gradient_descent as gradient_descent,
    central_flow as central_flow,
    at_limit as at_limit,
    flatten as flatten,
    least_action as least_action,
    message_passing as message_passing,
    Focusing as Focusing,
    keep_norms as keep_norms,
    entropy_sgd as entropy_sgd,
    Trajectory as Trajectory,
    Edge as Edge,
    Status as Status,
    value as value,
    snapshot as snapshot,
    with_state as with_state,
)

# What we measure: all (loss, network, ...) -> arrays
from .observables import (
    excess as excess,
    gradient_norm as gradient_norm,
    distance as distance,
    hessian as hessian,
    sharpness as sharpness,
    spectrum as spectrum,
    gauss_newton_spectrum as gauss_newton_spectrum,
    spectral_density as spectral_density,
    stability_threshold as stability_threshold,
    preconditioner as preconditioner,
    sharpening as sharpening,
    oscillation as oscillation,
    predicted_oscillation as predicted_oscillation,
    reversal as reversal,
    at_centre as at_centre,
    tangent_kernel as tangent_kernel,
    kernel_alignment as kernel_alignment,
    singular_values as singular_values,
    alignment as alignment,
    chance_alignment as chance_alignment,
    path_coupling as path_coupling,
    imbalance as imbalance,
    determinant as determinant,
    stable_rank as stable_rank,
    rank_one_gap as rank_one_gap,
    gains as gains,
    error_rate as error_rate,
    local_energy as local_energy,
    local_entropy as local_entropy,
    solved as solved,
)

# What papers predict: theory.<paper>.<quantity>(loss, ...)
from . import theory as theory

# Many runs, where they are kept, and how they are seen
from .experiments import sweep as sweep, save as save, load as load, plot as plot
