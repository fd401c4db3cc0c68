"""worldloop: a learned video world that remembers, behind the Gymnasium interface."""

__version__ = "0.1.0"
