"""Flax modules: perceptrons, critics and policy heads."""

from ddm.networks.critics import ActionValue, StateValue
from ddm.networks.distributions import (
    GaussianMixture,
    TanhGaussian,
    categorical,
    diagonal_gaussian,
)
from ddm.networks.encoders import (
    ENCODERS,
    ConvEncoder,
    Encoded,
    ObservationEncoder,
    check_encoder,
    scale_pixels,
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
from ddm.networks.transformer import (
    Cache,
    Transformer,
    TransformerBlock,
    causal_mask,
    sinusoids,
)

__all__ = [
    "ENCODERS",
    "MLP",
    "ActionValue",
    "Cache",
    "CategoricalPolicy",
    "ConvEncoder",
    "DeterministicPolicy",
    "Encoded",
    "GaussianMixture",
    "GaussianPolicy",
    "LinearGaussianPolicy",
    "LinearSoftmaxPolicy",
    "LossFn",
    "MixturePolicy",
    "ObservationEncoder",
    "StateValue",
    "TabularPolicy",
    "TanhGaussian",
    "TanhGaussianPolicy",
    "Trainable",
    "Transformer",
    "TransformerBlock",
    "categorical",
    "causal_mask",
    "check_encoder",
    "concatenate_inputs",
    "descend",
    "diagonal_gaussian",
    "ensemble",
    "fan_in_uniform",
    "minimize",
    "orthogonal",
    "output_size",
    "scale_pixels",
    "sinusoids",
    "trainable",
]
