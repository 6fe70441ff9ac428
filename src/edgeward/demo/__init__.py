"""A whole hospital on this machine: a new site, its roles, and simulated devices that use only public protocols."""

from edgeward.demo.show import main

__all__ = ["main"]
