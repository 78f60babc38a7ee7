"""What we measure: functions of `(loss, network)`, for the `observe` of any run."""

from .alignment import (
    alignment as alignment,
    determinant as determinant,
    gains as gains,
    imbalance as imbalance,
    path_coupling as path_coupling,
    random_alignment as random_alignment,
    rank_one_gap as rank_one_gap,
    singular_values as singular_values,
    stable_rank as stable_rank,
)
from .curvature import (
    Spectrum as Spectrum,
    hessian as hessian,
    linear_gauss_newton_spectrum as linear_gauss_newton_spectrum,
    sharpness as sharpness,
    spectrum as spectrum,
)
from .density import (
    SpectralDensity as SpectralDensity,
    spectral_density as spectral_density,
)
from .edge import (
    oscillation_variance as oscillation_variance,
    predicted_oscillation_variance as predicted_oscillation_variance,
    sharpening_rate as sharpening_rate,
    step_cosine as step_cosine,
    time_averaged as time_averaged,
)
from .kernel import (
    kernel_target_alignment as kernel_target_alignment,
    neural_tangent_kernel as neural_tangent_kernel,
)
from .progress import (
    distance as distance,
    excess_loss as excess_loss,
    gradient_norm as gradient_norm,
    loss_value as loss_value,
    weights as weights,
)
from .stability import (
    preconditioner as preconditioner,
    stability_threshold as stability_threshold,
)
