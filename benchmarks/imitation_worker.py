"""`imitation` and Stable-Baselines3 behind a pipe, for `adversarial_imitation.py`.

Runs in an environment of its own. Reads one JSON object per line and answers with one: {"do":
"start"} makes GAIL on PPO, or PPO alone, on the gymnasium face of one of our environments; {"do":
"learn"} takes so many environment steps and gives the seconds and the mean return of the last
episodes, in the environment's own reward; {"do": "versions"} gives those of the libraries.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import imitation
import numpy as np
import stable_baselines3
import torch
from imitation.algorithms.adversarial import gail
from imitation.data import types
from imitation.rewards import reward_nets
from stable_baselines3.common import monitor, vec_env

from ddm.envs.gym import GymnasiumFace


def main() -> None:
    """Answers until the input ends."""
    answers, sys.stdout = sys.stdout, sys.stderr  # what libraries print is no answer
    learner: Any = None
    for line in sys.stdin:
        request = json.loads(line)
        answer: Any = None
        match request.pop("do"):
            case "start":
                learner = Learner(**request)
            case "learn":
                answer = learner.learn(request["steps"])
            case "versions":
                answer = versions()
        print(json.dumps(answer), file=answers, flush=True)


def versions() -> dict[str, str]:
    """Of the libraries."""
    return {
        "imitation": imitation.__version__,
        "stable_baselines3": stable_baselines3.__version__,
        "torch": torch.__version__,
    }


class Learner:
    """PPO in copies of an environment; with demonstrations (a file) its reward is that of GAIL."""

    def __init__(
        self,
        environment: str,
        seed: int,
        threads: int,
        copies: int,
        window: int,
        layers: list[int],
        discriminator_layers: list[int],
        demonstrations: str,
        rows: int,  # of a discriminator step; the demonstrations need as many
        discriminator_steps: int,
        discriminator_learning_rate: float,
        **settings: Any,
    ):
        torch.set_num_threads(threads)
        make = lambda: monitor.Monitor(GymnasiumFace(environment))  # noqa: E731
        self._worlds = vec_env.DummyVecEnv([make] * copies)
        self._ppo = stable_baselines3.PPO(
            "MlpPolicy",
            self._worlds,
            n_steps=window,
            policy_kwargs={"net_arch": layers, "activation_fn": torch.nn.ReLU},
            seed=seed,
            device="cpu",
            **settings,
        )
        self._trainer: Any = None
        if demonstrations:
            reward = reward_nets.BasicRewardNet(
                self._worlds.observation_space,
                self._worlds.action_space,
                hid_sizes=discriminator_layers,
            )
            self._trainer = gail.GAIL(
                demonstrations=transitions(demonstrations),
                demo_batch_size=rows,
                n_disc_updates_per_round=discriminator_steps,
                disc_opt_kwargs={"lr": discriminator_learning_rate},
                venv=self._worlds,
                gen_algo=self._ppo,
                reward_net=reward,
                allow_variable_horizon=True,
            )

    def learn(self, steps: int) -> tuple[float, float]:
        """Seconds of so many steps, and the mean return of the last episodes of every copy."""
        begin = time.perf_counter()
        if self._trainer is None:
            self._ppo.learn(steps, log_interval=None, reset_num_timesteps=False)
        else:
            self._trainer.train(steps)
        seconds = time.perf_counter() - begin
        returns = [each.get_episode_rewards()[-1:] for each in self._worlds.envs]
        return seconds, float(np.mean(np.concatenate(returns)))


def transitions(path: str) -> types.Transitions:
    """Demonstrations from a file of arrays."""
    with np.load(path) as arrays:
        rows = {name: arrays[name] for name in arrays.files}
    return types.Transitions(
        obs=rows["observations"],
        acts=rows["actions"],
        next_obs=rows["next_observations"],
        dones=rows["terminations"],
        infos=np.array([{}] * len(rows["actions"])),
    )


if __name__ == "__main__":
    main()
