"""Edgeward: an open edge platform for medical AI. Not a medical device."""

__version__ = "0.1.0"
