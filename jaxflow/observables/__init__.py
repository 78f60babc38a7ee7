"""What we measure: functions of `(loss, network)`, for the `observe` of any run."""

from .progress import (
    loss_value as loss_value,
    weights as weights,
    excess_loss as excess_loss,
    gradient_norm as gradient_norm,
    distance as distance,
)
from .curvature import (
    hessian as hessian,
    sharpness as sharpness,
    spectrum as spectrum,
    Spectrum as Spectrum,
    linear_gauss_newton_spectrum as linear_gauss_newton_spectrum,
)
from .density import (
    spectral_density as spectral_density,
    SpectralDensity as SpectralDensity,
)
from .stability import (
    stability_threshold as stability_threshold,
    preconditioner as preconditioner,
)
from .edge import (
    sharpening_rate as sharpening_rate,
    oscillation_variance as oscillation_variance,
    predicted_oscillation_variance as predicted_oscillation_variance,
    step_cosine as step_cosine,
    time_averaged as time_averaged,
)
from .kernel import (
    neural_tangent_kernel as neural_tangent_kernel,
    kernel_target_alignment as kernel_target_alignment,
)
from .alignment import (
    singular_values as singular_values,
    alignment as alignment,
    random_alignment as random_alignment,
    path_coupling as path_coupling,
    imbalance as imbalance,
    determinant as determinant,
    stable_rank as stable_rank,
    rank_one_gap as rank_one_gap,
    gains as gains,
)
