"""What papers predict and what is measured: a folder each, all under one name.

`jf.papers.<paper>.<quantity>(loss, ...)` are closed forms, no simulation; the experiment
that sets them beside simulations is `jaxflow run <paper>`.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
