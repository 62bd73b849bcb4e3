"""Data-driven decision making in JAX: policies learned from logged data."""

__version__ = "0.1.0"
