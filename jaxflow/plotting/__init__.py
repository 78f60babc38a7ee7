"""Figures of stored runs: one call, the names of axes, and one palette."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
