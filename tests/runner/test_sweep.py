from __future__ import annotations

import numpy as np
import pytest
from flax import struct

from ddm.errors import InputError
from ddm.runner.sweep import Lane, expand


@struct.dataclass
class Config:
    alpha: float = 1
    steps: int = 10
    width: int = struct.field(pytree_node=False, default=256)


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
        ("steps=1.5", "'1.5' is not a value of steps, expected a whole number"),
        ("alpha=1;alpha=2", "alpha is given twice"),
    ],
)
def test_a_wrong_sweep_is_refused(sweep, message):
    with pytest.raises(InputError) as error:
        expand(Config(), (sweep,))
    assert message in str(error.value)
