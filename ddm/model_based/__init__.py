"""Offline RL that plans in a learned model of the environment: one module per algorithm."""
