"""Where programs run: the one place that decides."""

import jax


def on_cpu() -> bool:
    """Whether what is traced now will run on a CPU, as far as JAX's settings tell."""
    device = jax.config.jax_default_device  # pyright: ignore[reportAttributeAccessIssue]
    if device is None:
        return jax.default_backend() == "cpu"
    return (device if isinstance(device, str) else device.platform).startswith("cpu")
