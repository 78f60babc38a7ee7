r"""Gradient flows of linear networks that are known in closed form.

**Convention.** The flow is $\dot\theta = -\nabla \mathcal{L}$ of the library's loss, a mean
over samples and a sum over outputs with no factor one half, as that of `Regression`,
$\mathrm{tr}\,(W - W_\star) \Sigma (W - W_\star)^\top$. That of $c \mathcal{L}$ takes the
same path $c$ times as fast: for the usual loss with one half, pass `times / 2`.

Sources: a mode of two layers after Saxe, McClelland & Ganguli (2014); the matrix Riccati
solution of two layers after Fukumizu (1998) and Braun et al. (2022), for starts that are
$\lambda$-balanced after Dominé et al. (2024); diagonal networks after Woodworth et al.
(2020); end-to-end dynamics after Arora, Cohen & Hazan (2018). The formulas here were
derived for this library, in forms that neither overflow nor cancel at large times, and are
tested against direct integration.

All functions can be compiled, batched and differentiated, but for what their docstrings
say. Those of single modes take one mode: for several, use `jax.vmap`.
"""

from .theory import (
    TwoLayers as TwoLayers,
    autoencoder_modes as autoencoder_modes,
    chain_times as chain_times,
    diagonal_limit as diagonal_limit,
    diagonal_map as diagonal_map,
    end_to_end_velocity as end_to_end_velocity,
    symmetric_factorization as symmetric_factorization,
    two_layer_mode as two_layer_mode,
    two_layer_regression as two_layer_regression,
)
