"""Offline RL with conservative values: one module per algorithm."""
