from __future__ import annotations

import contract
from models import CONTEXT, OTHER, SMALL_MODEL

CONTRACT = contract.Contract(
    small={
        **SMALL_MODEL,
        "rollout_length": 3,
        "cloning_steps": 2,
        "cg_iterations": 2,
        "max_halvings": 2,
        "num_minibatches": 2,
    },
    other={
        **OTHER,
        "threshold": "largest",
        "damping": 1.0,
        "initial_share": 0.5,
        "cloning_steps": 3,
        "cg_iterations": 3,
        "max_halvings": 3,
        "num_epochs": 2,
        "num_minibatches": 3,
    },
    context=CONTEXT,
)
