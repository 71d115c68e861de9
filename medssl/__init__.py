"""medssl: self-supervised learning on medical images and signals, judged with limited labels."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("medssl")
except PackageNotFoundError:  # a checkout that was never installed
    __version__ = "0.0.0+unknown"

__all__ = ["__version__"]
