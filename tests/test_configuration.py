import dataclasses

import contract
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddm import configuration
from ddm.configuration import Configuration, choice, chosen, leaf, static
from ddm.errors import InputError
from ddm.runner import flags


class Config(Configuration):
    discount: float = leaf(0.99, "[0, 1)")
    log_std_min: float = leaf(-5.0, at_most="log_std_max")
    log_std_max: float = leaf(2.0)
    hidden_sizes: tuple[int, ...] = static((8, 8), "[1, inf)")


@pytest.mark.parametrize(
    ("field", "value"),
    [("discount", 1.0), ("discount", -0.1), ("discount", np.array([0.5, 99.0])),
     ("discount", float("nan")), ("log_std_min", 3.0), ("hidden_sizes", (8, 0))],
)  # fmt: skip
def test_numbers_outside_their_interval_are_refused_by_name(field, value):
    with pytest.raises(InputError, match=f"test_configuration: {field} is"):
        Config(**{field: value})
    with pytest.raises(InputError, match=field):
        Config().replace(**{field: value})


WEIGHTS = {"square": np.square, "root": np.sqrt}


class Choosing(Configuration):
    weight: str = choice(lambda: WEIGHTS, "square")  # of an error
    network: object = configuration.network()


def test_a_name_that_is_no_choice_is_refused_and_a_function_may_stand_in_its_place():
    with pytest.raises(InputError, match="weight=cube is unknown; choose one of square, root"):
        Choosing(weight="cube")
    assert chosen(Choosing(weight="root"), "weight") is np.sqrt
    assert chosen(Choosing(weight=np.cbrt), "weight") is np.cbrt


def test_help_lists_the_choices_and_no_networks():
    [field] = flags.flag_fields(Choosing)
    assert field.help == "of an error (one of square, root)"


def test_ends_of_intervals_and_traced_values_pass():
    config = Config(discount=0.0, log_std_min=2.0)
    assert jax.jit(lambda c: c.discount + 1)(config) == 1.0
    stacked = jax.tree.map(lambda x: jnp.full(2, x), Config())
    assert jax.vmap(lambda c: c.discount)(stacked).shape == (2,)


def test_trees_that_say_something_about_each_leaf_pass():
    for mark in (True, False, None, "an axis", object()):
        jax.tree.map(lambda _, mark=mark: mark, Config())
    structure = jax.tree.structure(Config())
    assert jax.tree.unflatten(structure, [False] * 3) is not None


def test_a_misspelt_interval_is_found_at_definition():
    with pytest.raises(ValueError, match="not an interval"):
        leaf(1.0, "0..1")


IMITATION_AND_TABLES = [
    algorithm
    for algorithm in contract.algorithms()
    if ".imitation." in algorithm.__name__
    or contract.contract_of(algorithm).table
    or contract.short_name(algorithm) == "policy_gradient"
]


@pytest.mark.parametrize("algorithm", IMITATION_AND_TABLES, ids=contract.short_name)
def test_every_number_declares_its_range(algorithm):
    fields = dataclasses.fields(algorithm.Config)
    ceilings = {field.metadata.get("at_most") for field in fields}
    for field in fields:
        is_number = field.type in ("int", "float", "tuple[int, ...]", "tuple[float, ...]")
        declared = field.metadata.get("allowed") or field.metadata.get("at_most")
        assert not is_number or declared or field.name in ceilings, field.name


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("history_bc", {"dropout_rate": 1.0}),
        ("act", {"num_layers": 0}),
        ("tabular_cql", {"discount": 99.0}),
        ("constrained_iteration", {"discount": float("nan")}),
        ("bc", {"log_std_min": 3.0}),
        ("bc", {"label_smoothing": 1.0}),
        ("diffusion", {"sample_steps": 60}),
        ("autoregressive", {"temperature": 0.0}),
        ("q_learning", {"learning_rate": 1.5}),
        ("implicit_bc", {"num_negatives": 0}),
        ("reverse_kl", {"hidden_sizes": (8, 0)}),
    ],
)
def test_values_outside_the_domain_of_a_method_are_refused_by_name(name, values):
    [algorithm] = [each for each in IMITATION_AND_TABLES if contract.short_name(each) == name]
    [field] = values
    with pytest.raises(InputError, match=f"{name}: {field} is"):
        algorithm.Config().replace(**values)


@pytest.mark.parametrize(
    "algorithm",
    [each for each in contract.algorithms() if "num_actions" in each.Config.__dataclass_fields__],
    ids=contract.short_name,
)
def test_every_discrete_method_lets_the_log_be_checked_against_its_number_of_actions(algorithm):
    name = contract.short_name(algorithm)
    discrete = {"head": "categorical"} if "head" in algorithm.Config.__dataclass_fields__ else {}
    config = contract.small_config(algorithm, **discrete | {"num_actions": 3})
    assert contract.first_source(algorithm.batch_spec(config)).num_actions == 3, name
