from __future__ import annotations

import contract
from models import CONTEXT, OTHER, SMALL_MODEL

CONTRACT = contract.Contract(
    small=SMALL_MODEL,
    other=OTHER,
    context=CONTEXT,
    variants=[{"probabilistic": False}, {"bootstrap": False}],
)
