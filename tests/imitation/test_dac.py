"""DAC."""

from __future__ import annotations

import contract

CONTRACT = contract.Contract(
    small={"block_size": 2, "discriminator_hidden_sizes": (8,)},
    variants=[{"absorbing": False, "discriminator_input": "ss", "reward": "gail"}],
    other={
        "absorbing_copies": 20.0,
        "discriminator_entropy_weight": 0.5,
        "reward_bound": 0.01,
        "reward": "gail",
        "discriminator_input": "ss",
        "discriminator_loss": "wasserstein",
        "discriminator_hidden_sizes": (6,),
        "block_size": 3,
    },
    context={"reward_bound": {"reward": "chi2"}},
)
