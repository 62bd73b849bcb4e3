"""Imitation learning: one module per algorithm."""
