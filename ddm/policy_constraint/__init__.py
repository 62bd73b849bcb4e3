"""Offline RL that keeps the policy near the data: one module per algorithm."""
