from __future__ import annotations

import dataclasses
import types
from collections.abc import Callable
from typing import Literal

import jax
import pytest
from absl import flags
from flax import struct

from ddm.configuration import Configuration, leaf, static
from ddm.errors import InputError
from ddm.runner import Options, define_flags, parse_flags
from ddm.runner.flags import field_comments, flag_fields


class Base(Configuration):
    """Fields that are inherited."""

    discount: float = leaf(0.99, "[0, 1]")  # gamma, per step


class Config(Base):
    """Every kind of field."""

    # Step size of Adam,
    # from table 3.
    learning_rate: float | jax.Array = 3e-4
    decay_steps: int = 1_000  # steps of the schedule
    layers: tuple[int, ...] = struct.field(pytree_node=False, default=(256, 256))  # hidden units
    head: Literal["mean", "mixture"] = struct.field(
        pytree_node=False, default="mean"
    )  # of the policy
    layer_norm: bool = struct.field(pytree_node=False, default=False)
    dropout: float | None = None  # None: no dropout
    pair: tuple[float, float] = static((0.0, 1.0), "[0, inf)")  # a range
    weight: Callable = struct.field(pytree_node=False, default=abs)  # no flag


algorithm = types.SimpleNamespace(__name__="ddm.family.toy", Config=Config)


def parse(*arguments, algorithm=algorithm, **defaults):
    values = flags.FlagValues()
    define_flags(algorithm, flag_values=values, **defaults)
    values(["program", *arguments])
    return parse_flags(algorithm, flag_values=values)


def test_defaults_are_those_of_the_dataclasses():
    options, config = parse("--dataset=d")
    assert options == Options(dataset="d")
    assert config == Config()


def test_every_kind_of_value_is_parsed():
    options, config = parse(
        "--dataset=d", "--learning_rate=1", "--decay_steps=5", "--layers=64,32", "--head=mixture",
        "--layer_norm", "--dropout=0.1", "--discount=0.9", "--seeds=3", "--noplots",
        "--sweep=discount=0.9,0.99", "--sweep=decay_steps=1,2",
    )  # fmt: skip
    assert config == Config(
        learning_rate=1.0, decay_steps=5, layers=(64, 32), head="mixture", layer_norm=True,
        dropout=0.1, discount=0.9,
    )  # fmt: skip
    assert type(config.learning_rate) is float
    assert (options.seeds, options.plots) == (3, False)
    assert options.sweep == ("discount=0.9,0.99", "decay_steps=1,2")


def test_an_experiment_changes_defaults():
    options, config = parse("--dataset=d", discount=0.5, batch_size=8, layers=(1,))
    assert (config.discount, options.batch_size, config.layers) == (0.5, 8, (1,))


def test_help_texts_are_the_comments_of_the_source():
    assert field_comments(Config) == {
        "discount": "gamma, per step",
        "learning_rate": "Step size of Adam, from table 3.",
        "decay_steps": "steps of the schedule",
        "layers": "hidden units",
        "head": "of the policy",
        "dropout": "None: no dropout",
        "pair": "a range",
        "weight": "no flag",
    }


def test_every_option_has_a_flag_and_a_comment():
    assert {field.name for field in flag_fields(Options)} == {
        field.name for field in dataclasses.fields(Options)
    }
    assert set(field_comments(Options)) == {field.name for field in dataclasses.fields(Options)}


def test_the_help_of_the_experiment_shows_the_flags():
    values = flags.FlagValues()
    define_flags(algorithm, flag_values=values)
    text = values.module_help(__name__)
    assert "--discount: [toy] gamma, per step (in [0, 1])" in text
    assert "--[no]layer_norm: [toy] layer norm" in text
    assert "--seeds: Number of seeds" in text
    assert "(default: '256,256')" in text
    assert "--weight" not in text


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--discont=1", "Unknown command line flag 'discont'. Did you mean: discount"),
        ("--discount=high", "flag --discount=high"),
        ("--layers=a,b", "'a,b' is not a comma-separated list of int"),
        ("--head=other", "value should be one of <mean|mixture>"),
        ("--lanes=both", "value should be one of <auto|vmap|sequential>"),
    ],
)
def test_what_is_not_a_flag_or_a_value_is_refused(argument, message):
    with pytest.raises(flags.Error) as error:
        parse("--dataset=d", argument)
    assert message in str(error.value)


def test_values_out_of_range_are_refused():
    with pytest.raises(InputError, match="seeds is 0, expected at least 1"):
        parse("--dataset=d", "--seeds=0")
    with pytest.raises(InputError, match=r"discount is 1\.5, expected a value in \[0, 1\]"):
        parse("--dataset=d", "--discount=1.5")
    with pytest.raises(InputError, match=r"pair is \(-1\.0, 2\.0\), expected a value in"):
        parse("--dataset=d", "--pair=-1,2")
    with pytest.raises(InputError, match="--dataset is missing"):
        parse()


def test_tuples_may_be_empty_or_of_a_fixed_length():
    options, config = parse("--dataset=d", "--layers=", "--pair=0.5,2", "--action_low=-1,-2")
    assert (config.layers, config.pair) == ((), (0.5, 2.0))
    assert (options.action_low, options.action_high) == ((-1.0, -2.0), ())


def test_a_field_may_not_have_the_name_of_an_option():
    @struct.dataclass
    class Clash:
        batch_size: int = 3

    clash = types.SimpleNamespace(__name__="clash", Config=Clash)
    with pytest.raises(InputError, match=r"Config.batch_size of clash has the name of an option"):
        parse(algorithm=clash)


def test_a_field_may_not_have_the_name_of_another_flag():
    values = flags.FlagValues()
    flags.DEFINE_float("discount", 1.0, "of another module", flag_values=values)
    with pytest.raises(InputError, match="the flag --discount of toy is already defined"):
        define_flags(algorithm, flag_values=values)


def test_a_default_for_no_field_is_refused():
    with pytest.raises(InputError, match="nothing is neither an option nor a field of toy"):
        parse(nothing=1)
