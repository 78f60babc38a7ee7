"""A differentiable simulator of training dynamics.

The public names are listed in `__init__.pyi`, in the order that data flows through them.
They are imported when they are first used, so that `jaxflow --help` does not wait for JAX.
"""

import importlib.metadata

import lazy_loader

__version__ = importlib.metadata.version("jaxflow")

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
