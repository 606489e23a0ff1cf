"""Fullsend: bulk mail for Kubernetes that can prove nobody was missed."""

__version__ = "0.1.0"
