"""Offline RL with a learned model of the environment: one module per algorithm."""
