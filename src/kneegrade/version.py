"""The version of kneegrade; the build backend reads this file too."""

__version__ = "0.1.0"
