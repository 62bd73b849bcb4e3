"""A plain PyTorch ensemble behind a pipe, for `ensemble.py`; runs in an environment of its own.

Members are modules in a list, each with an optimiser of its own, and a gradient step is a loop over
them. Reads one JSON object per line and answers with one: {"do": "start"} makes the members and
their data, {"do": "train"} takes so many gradient steps of all and gives the seconds, {"do":
"imagine"} gives those of one round of imagined episodes.
"""

from __future__ import annotations

import itertools
import json
import sys
import time
from typing import Any

import torch
from torch import nn
from torch.nn import functional


class Member(nn.Module):
    """A Gaussian over targets, whose log-variance has learned bounds."""

    def __init__(self, inputs: int, outputs: int, layers: list[int]):
        super().__init__()
        sizes = [inputs, *layers, 2 * outputs]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in itertools.pairwise(sizes))
        self.high = nn.Parameter(torch.full((outputs,), 0.5))
        self.low = nn.Parameter(torch.full((outputs,), -10.0))

    def forward(self, inputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Means and log-variances."""
        for layer in self.layers[:-1]:
            inputs = functional.silu(layer(inputs))
        mean, log_variance = self.layers[-1](inputs).chunk(2, dim=-1)
        log_variance = self.high - functional.softplus(self.high - log_variance)
        return mean, self.low + functional.softplus(log_variance - self.low)


class Ensemble:
    """Members, their optimisers and their data."""

    def __init__(
        self, members: int, layers: list[int], observation_size: int, action_size: int, rows: int,
        batch_size: int, decays: list[float], learning_rate: float, threads: int,
    ):  # fmt: skip
        torch.set_num_threads(threads)
        torch.manual_seed(0)
        inputs, outputs = observation_size + action_size, observation_size + 1
        self.inputs, self.targets = torch.randn(rows, inputs), torch.randn(rows, outputs)
        self.batch_size, self.decays = batch_size, decays
        self.members = [Member(inputs, outputs, layers) for _ in range(members)]
        self.optimizers = [
            torch.optim.Adam(member.parameters(), lr=learning_rate) for member in self.members
        ]
        self.order = torch.randint(0, rows, (members, rows))
        self.observation_size, actions = observation_size, inputs - observation_size
        self.policy = nn.Sequential(
            nn.Linear(observation_size, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(),
            nn.Linear(256, 2 * actions),
        )  # fmt: skip

    def train(self, steps: int) -> float:
        """Seconds of so many gradient steps of all members."""
        begin = time.perf_counter()
        for step in range(steps):
            first = step * self.batch_size % (self.order.shape[1] - self.batch_size)
            for i, (member, optimizer) in enumerate(
                zip(self.members, self.optimizers, strict=True)
            ):
                rows = self.order[i, first : first + self.batch_size]
                optimizer.zero_grad()
                self.loss(member, self.inputs[rows], self.targets[rows]).backward()
                optimizer.step()
        return time.perf_counter() - begin

    @torch.no_grad()
    def imagine(self, states: int, length: int, elites: int) -> float:
        """Seconds of one round of episodes: policy, all members, one elite a row, the penalty."""
        begin = time.perf_counter()
        observations = torch.randn(states, self.observation_size)
        for _ in range(length):
            mean, log_std = self.policy(observations).chunk(2, dim=-1)
            actions = torch.tanh(mean + log_std.clamp(-5.0, 2.0).exp() * torch.randn_like(mean))
            inputs = torch.cat([observations, actions], dim=-1)
            found = [member(inputs) for member in self.members]
            means, stds = (torch.stack(x) for x in zip(*found, strict=True))
            stds = (0.5 * stds).exp()
            drawn = torch.randint(0, elites, (states,)), torch.arange(states)
            rows = means[drawn] + stds[drawn] * torch.randn_like(means[0])
            self.rewards = rows[:, 0] - stds.norm(dim=-1).amax(dim=0)
            observations = observations + rows[:, 1:]
        return time.perf_counter() - begin

    def loss(self, member: Member, inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Negative log-likelihood, decay and the bounds' distance."""
        mean, log_variance = member(inputs)
        value = ((targets - mean) ** 2 * torch.exp(-log_variance) + log_variance).mean()
        for decay, layer in zip(self.decays, member.layers, strict=True):
            value = value + 0.5 * decay * layer.weight.square().sum()
        return value + 0.01 * (member.high - member.low).sum()


def main() -> None:
    """Answers until the input ends."""
    answers, sys.stdout = sys.stdout, sys.stderr  # what libraries print is no answer
    ensemble: Any = None
    for line in sys.stdin:
        request = json.loads(line)
        answer: Any = None
        match request.pop("do"):
            case "start":
                ensemble = Ensemble(**request)
                ensemble.train(2)
            case "train":
                answer = ensemble.train(request["steps"])
            case "imagine":
                answer = ensemble.imagine(**request)
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
