from __future__ import annotations

import contract
from models import CONTEXT, OTHER, SMALL_MODEL, SMALL_ROUNDS

CONTRACT = contract.Contract(
    small={**SMALL_MODEL, **SMALL_ROUNDS},
    other={**OTHER, "threshold": "largest"},
    context=CONTEXT,
)
