"""Deploy plain bash scripts to hosts over SSH."""

__version__ = "0.1.0"
