"""d3rlpy behind a pipe, for `against_d3rlpy.py`; runs in an environment of its own.

Reads one JSON object a line, answers with one: {"do": "start"} makes an algorithm, {"do": "fit"}
trains it for so many steps and gives the seconds of its own loop, {"do": "act"} gives greedy
actions. The data set is an .npz file named on the command line.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import d3rlpy
import numpy as np
from d3rlpy.logging import NoopAdapterFactory
from d3rlpy.models.encoders import VectorEncoderFactory

CONFIGS = {
    "bcq": d3rlpy.algos.BCQConfig,
    "bear": d3rlpy.algos.BEARConfig,
    "crr": d3rlpy.algos.CRRConfig,
    "awac": d3rlpy.algos.AWACConfig,
    "iql": d3rlpy.algos.IQLConfig,
    "td3_bc": d3rlpy.algos.TD3PlusBCConfig,
}


def main() -> None:
    """Answers until the input ends."""
    answers, sys.stdout = sys.stdout, sys.stderr  # what libraries print is no answer
    dataset = load(sys.argv[1])
    algorithm: Any = None
    for line in sys.stdin:
        request = json.loads(line)
        if request["do"] == "start":
            algorithm = start(request["algorithm"], request["seed"], request["settings"])
            answer: Any = d3rlpy.__version__
        elif request["do"] == "fit":
            answer = fit(algorithm, dataset, request["steps"])
        else:
            observations = np.asarray(request["observations"], np.float32)
            answer = algorithm.predict(observations).tolist()
        print(json.dumps(answer), file=answers, flush=True)


def load(path: str) -> d3rlpy.dataset.MDPDataset:
    """Transitions in order, as d3rlpy keeps them."""
    arrays = np.load(path, allow_pickle=False)
    return d3rlpy.dataset.MDPDataset(
        arrays["observations"],
        arrays["actions"],
        arrays["rewards"],
        arrays["terminations"].astype(np.float32),
        arrays["truncations"].astype(np.float32),
    )


def start(name: str, seed: int, settings: dict[str, Any]) -> Any:
    """An untrained algorithm; hidden layers, like every other setting, come by name."""
    d3rlpy.seed(seed)
    factories = {
        key: VectorEncoderFactory(value) if key.endswith("_encoder_factory") else value
        for key, value in settings.items()
    }
    return CONFIGS[name](**factories).create(device=False)


def fit(algorithm: Any, dataset: Any, steps: int) -> float:
    """Seconds of d3rlpy's own loop, without progress bars, logs and checkpoints."""
    begin = time.perf_counter()
    algorithm.fit(
        dataset,
        n_steps=steps,
        n_steps_per_epoch=steps,
        logger_adapter=NoopAdapterFactory(),
        show_progress=False,
    )
    return time.perf_counter() - begin


if __name__ == "__main__":
    main()
