"""sandkeeper: the server inside a sandbox. No output ever makes anyone wait."""

__all__ = ["__version__"]

__version__ = "0.1.0"
