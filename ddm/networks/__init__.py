"""Flax modules: perceptrons, critics and policy heads."""

from ddm.networks.critics import ActionValue, StateValue
from ddm.networks.distributions import (
    GaussianMixture,
    TanhGaussian,
    categorical,
    diagonal_gaussian,
)
from ddm.networks.mlp import (
    MLP,
    concatenate_inputs,
    ensemble,
    fan_in_uniform,
    orthogonal,
    output_size,
)
from ddm.networks.policies import (
    CategoricalPolicy,
    DeterministicPolicy,
    GaussianPolicy,
    LinearGaussianPolicy,
    LinearSoftmaxPolicy,
    MixturePolicy,
    TabularPolicy,
    TanhGaussianPolicy,
)
from ddm.networks.trainable import LossFn, Trainable, descend, minimize, trainable

__all__ = [
    "MLP",
    "ActionValue",
    "CategoricalPolicy",
    "DeterministicPolicy",
    "GaussianMixture",
    "GaussianPolicy",
    "LinearGaussianPolicy",
    "LinearSoftmaxPolicy",
    "LossFn",
    "MixturePolicy",
    "StateValue",
    "TabularPolicy",
    "TanhGaussian",
    "TanhGaussianPolicy",
    "Trainable",
    "categorical",
    "concatenate_inputs",
    "descend",
    "diagonal_gaussian",
    "ensemble",
    "fan_in_uniform",
    "minimize",
    "orthogonal",
    "output_size",
    "trainable",
]
