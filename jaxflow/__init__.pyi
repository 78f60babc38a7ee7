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
    NoisyNetwork as NoisyNetwork,
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
    ExpectedNoisyLoss as ExpectedNoisyLoss,
    SampledNoisyLoss as SampledNoisyLoss,
    WeightDecay as WeightDecay,
)
from .variants import (
    Scheduled as Scheduled,
    Normalized as Normalized,
    Replicated as Replicated,
    replica_mean as replica_mean,
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
    at_flow_limit as at_flow_limit,
    flatten as flatten,
    least_action_learning as least_action_learning,
    focusing_bp as focusing_bp,
    Focusing as Focusing,
    fixed_row_norms as fixed_row_norms,
    entropy_sgd as entropy_sgd,
    Trajectory as Trajectory,
    Edge as Edge,
    Status as Status,
    loss_value as loss_value,
    weights as weights,
    with_state as with_state,
)

# What we measure: all (loss, network, ...) -> arrays
from .observables import (
    excess_loss as excess_loss,
    gradient_norm as gradient_norm,
    distance as distance,
    hessian as hessian,
    sharpness as sharpness,
    spectrum as spectrum,
    linear_gauss_newton_spectrum as linear_gauss_newton_spectrum,
    spectral_density as spectral_density,
    stability_threshold as stability_threshold,
    preconditioner as preconditioner,
    sharpening_rate as sharpening_rate,
    oscillation_variance as oscillation_variance,
    predicted_oscillation_variance as predicted_oscillation_variance,
    step_cosine as step_cosine,
    time_averaged as time_averaged,
    neural_tangent_kernel as neural_tangent_kernel,
    kernel_target_alignment as kernel_target_alignment,
    singular_values as singular_values,
    alignment as alignment,
    random_alignment as random_alignment,
    path_coupling as path_coupling,
    imbalance as imbalance,
    determinant as determinant,
    stable_rank as stable_rank,
    rank_one_gap as rank_one_gap,
    gains as gains,
    error_rate as error_rate,
    local_energy as local_energy,
    local_entropy as local_entropy,
    zero_training_error as zero_training_error,
)

# What papers predict: theory.<paper>.<quantity>(loss, ...)
from . import theory as theory

# Many runs, where they are kept, and how they are seen
from .experiments import sweep as sweep, save as save, load as load, plot as plot
