"""A differentiable simulator of training dynamics.

The public names are listed in `__init__.pyi`, in the order that data flows through them.
They are imported when they are first used, so that `jaxflow --help` does not wait for JAX.
"""

import lazy_loader

_public, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)


def __getattr__(name: str):
    if name != "__version__":
        return _public(name)
    import importlib.metadata  # Slower than all else here, and seldom needed.

    return importlib.metadata.version("jaxflow")
