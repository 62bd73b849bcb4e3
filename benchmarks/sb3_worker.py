"""Stable-Baselines3 behind a pipe, for `online.py`; runs in an environment of its own.

Reads one JSON object per line and answers with one: {"do": "start"} makes SAC on the gymnasium face
of one of our environments, {"do": "learn"} takes so many environment steps, with one update after
each, and gives the seconds and the mean return of the last episodes; {"do": "versions"} gives those
of the libraries.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import numpy as np
import stable_baselines3
import torch

from ddm.envs.gym import GymnasiumFace


def main() -> None:
    """Answers until the input ends."""
    answers, sys.stdout = sys.stdout, sys.stderr  # what libraries print is no answer
    model: Any = None
    for line in sys.stdin:
        request = json.loads(line)
        answer: Any = None
        match request.pop("do"):
            case "start":
                model = start(**request)
            case "learn":
                answer = learn(model, request["steps"])
            case "versions":
                answer = versions()
        print(json.dumps(answer), file=answers, flush=True)


def versions() -> dict[str, str]:
    """Of the libraries."""
    return {"stable_baselines3": stable_baselines3.__version__, "torch": torch.__version__}


def start(
    environment: str, seed: int, threads: int, random_steps: int, layers: list[int], **settings: Any
) -> Any:
    """SAC after its first random steps."""
    torch.set_num_threads(threads)
    model = stable_baselines3.SAC(
        "MlpPolicy",
        GymnasiumFace(environment),
        learning_starts=random_steps,
        train_freq=1,
        gradient_steps=1,
        policy_kwargs={"net_arch": layers},
        seed=seed,
        device="cpu",
        **settings,
    )
    return model.learn(random_steps, log_interval=None)


def learn(model: Any, steps: int) -> tuple[float, float]:
    """Seconds of so many steps, and the mean return of the last episodes."""
    begin = time.perf_counter()
    model.learn(steps, log_interval=None, reset_num_timesteps=False)
    seconds = time.perf_counter() - begin
    returns = [episode["r"] for episode in model.ep_info_buffer]
    return seconds, float(np.mean(returns[-10:])) if returns else 0.0


if __name__ == "__main__":
    main()
