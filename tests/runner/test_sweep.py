from __future__ import annotations

import numpy as np
import pytest

from ddm.configuration import Configuration, leaf, static
from ddm.errors import InputError
from ddm.runner.sweep import Lane, expand


class Config(Configuration):
    alpha: float = 1
    steps: int = leaf(10, "[1, inf)")
    width: int = static(256)


def test_without_a_sweep_the_lanes_are_seeds():
    config, lanes = expand(Config(), seeds=3, seed=5)
    assert lanes == [Lane(5), Lane(6), Lane(7)]
    np.testing.assert_array_equal(config.alpha, np.ones(3))
    assert (config.alpha.dtype, config.steps.dtype, config.width) == (np.float32, np.int32, 256)


@pytest.mark.parametrize("sweep", [("alpha=1,5", "steps=2,3"), ("alpha=1,5;steps=2, 3",)])
def test_several_keys_give_all_combinations_each_with_every_seed(sweep):
    config, lanes = expand(Config(), sweep, seeds=2)
    np.testing.assert_array_equal(config.alpha, [1, 1, 1, 1, 5, 5, 5, 5])
    np.testing.assert_array_equal(config.steps, [2, 2, 3, 3, 2, 2, 3, 3])
    assert [lane.seed for lane in lanes] == [0, 1] * 4
    assert lanes[6] == Lane(0, (("alpha", 5.0), ("steps", 3)))
    assert str(lanes[6]) == "seed 0 alpha=5 steps=3"


def test_numbers_in_exponent_form():
    config, _ = expand(Config(), ("alpha=3e-4,1",))
    np.testing.assert_allclose(config.alpha, [3e-4, 1])


@pytest.mark.parametrize(
    ("sweep", "message"),
    [
        ("width=1,2", "width is structural and cannot be swept; these can be swept: alpha, steps"),
        ("beta=1", "beta is not a hyper-parameter; these can be swept: alpha, steps"),
        ("alpha", "--sweep=alpha: expected key=value,value,..."),
        ("alpha=", "--sweep=alpha=: expected key=value,value,..."),
        ("alpha=1,high", "'high' is not a value of alpha, expected a number"),
        ("alpha=1,nan", "'nan' is not a value of alpha, expected a finite number"),
        ("alpha=1,1e39", "'1e39' is not a value of alpha, expected a finite number of 32 bits"),
        ("steps=1,3e9", "'3e9' is not a value of steps, expected a whole number of 32 bits"),
        ("alpha=1,2,1.0", "--sweep=alpha=1,2,1.0: a value of alpha is given twice"),
        ("alpha=0.1,0.10000000001", "a value of alpha is given twice"),  # in float32
        ("alpha=1,2;steps=0,5", "test_sweep: steps is 0, expected a value in [1, inf)"),
        ("steps=1.5", "'1.5' is not a value of steps, expected a whole number"),
        ("alpha=1;alpha=2", "alpha is given twice"),
    ],
)
def test_a_wrong_sweep_is_refused(sweep, message):
    with pytest.raises(InputError) as error:
        expand(Config(), (sweep,))
    assert message in str(error.value)
