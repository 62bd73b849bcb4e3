"""The options of a run: everything that is not a hyper-parameter of the algorithm."""

from __future__ import annotations

import dataclasses
from typing import Literal

from ddm.errors import InputError


@dataclasses.dataclass(frozen=True)
class Options:
    """How a run is done. The comment of each field is the help text of its flag."""

    # Minari id or folder, D4RL .hdf5 file or .npz file with the logged data.
    dataset: str = ""
    # Environment that gives the score; empty: the one named in the dataset; "none": no score.
    environment: str = ""
    # Keyword arguments of the environment as JSON, for example '{"is_slippery": false}'.
    environment_kwargs: str = ""
    # Steps after which an evaluation episode of a gymnasium environment is truncated; 0: the
    # environment's own limit.
    max_episode_steps: int = 0
    # Named transform of observations: "none", "standardize", or "auto": standardize real vectors,
    # leave images and vectors of zeros and ones.
    normalize_observations: str = "auto"
    # Move logged actions that lie outside their box onto its edge, as many environments do, instead
    # of refusing them.
    clip_actions: bool = False
    # Lower bounds of the logged actions, one number or one per dimension; empty: the data's own.
    action_low: tuple[float, ...] = ()
    # Upper bounds of the logged actions, likewise.
    action_high: tuple[float, ...] = ()
    # Named transform of rewards, for example "none", "return_range" or "iql_locomotion".
    reward_transform: str = "none"
    # Factor on the rewards, after the transform.
    reward_scale: float = 1.0

    # The policy collects own experience in the environment while it learns, beside the log if there
    # is one.
    online: bool = False
    # Steps of each copy of the environment before each update; 0: the algorithm's own number, or 1.
    collect_steps: int = 0
    # Copies of the environment of each lane; 0: the algorithm's own number, or 1.
    collect_copies: int = 0
    # Transitions by random actions before the first update; 0: the algorithm's own, or 5,000.
    random_steps: int = 0
    # Own transitions that are kept; 0: the algorithm's own number, or 1,000,000.
    buffer_capacity: int = 0
    # Updates between two visits of gymnasium environments, where own experience is collected there;
    # always 1 for a method that learns from its present policy alone.
    collect_every: int = 20
    # Share of the log in each batch, beside own experience.
    log_share: float = 0.5
    # Share of the log's episodes that are held out: metrics on them are reported; 0: none.
    holdout: float = 0.0
    # Folder of a run of the same algorithm, whose policies this one starts with.
    start_from: str = ""

    # Number of seeds; they run side by side as lanes of one program.
    seeds: int = 1
    # First seed; the others count up from it.
    seed: int = 0
    # Values of numeric hyper-parameters to try, "alpha=1,5,10"; give the flag once for each
    # hyper-parameter (or separate them by ";") to run all combinations.
    sweep: tuple[str, ...] = ()

    # Gradient steps of each lane; for a method with stages those of the last one, to which the
    # earlier ones add their own. 0: as many as the last stage declares, for a method where it does.
    num_updates: int = 50_000
    # Transitions (or windows) in the batch of one gradient step.
    batch_size: int = 256
    # Gradient steps between two rows of metrics; one call of the device runs that many, and a
    # run that is asked to stop does so after the call.
    log_every: int = 1_000
    # Gradient steps between two evaluations; 0: only at the end.
    eval_every: int = 5_000
    # Also evaluate the policies before they are trained, at step 0.
    eval_at_start: bool = True
    # Episodes of each lane in one evaluation.
    eval_episodes: int = 10
    # Evaluate the mode of the policy; otherwise its samples.
    deterministic_eval: bool = True
    # Simulators of gymnasium that are open at a time; 0: as many as fit the memory, at most 64.
    eval_environments: int = 0
    # What happens when an evaluation fails: "stop" after a checkpoint, or "continue" training.
    on_evaluation_error: Literal["stop", "continue"] = "stop"
    # Seed of the evaluation episodes, the same for all lanes.
    eval_seed: int = 1_000

    # How lanes run on one device: all at once ("vmap") or one after the other ("sequential");
    # "auto" takes vmap on an accelerator and sequential on a CPU.
    lanes: Literal["auto", "vmap", "sequential"] = "auto"
    # Local devices to spread the lanes over; 0: all of them.
    devices: int = 0
    # Address "host:port" of process 0 when several processes share the lanes.
    coordinator_address: str = ""
    # Number of processes that share the lanes.
    num_processes: int = 1
    # Index of this process, from 0.
    process_id: int = 0
    # Seconds within which all processes must have started.
    connect_timeout: int = 60

    # Folder of the run's files; empty: a new one under "runs".
    run_dir: str = ""
    # Go on from the newest checkpoint in run_dir.
    resume: bool = False
    # Gradient steps between two checkpoints; 0: only at the end.
    checkpoint_every: int = 10_000
    # Checkpoints that are kept; older ones are deleted.
    keep: int = 2

    # Write TensorBoard events beside the CSV.
    tensorboard: bool = False
    # Draw learning curves at the end.
    plots: bool = True
    # Progress on the terminal: a bar, plain lines, or none; "auto" takes the bar on a terminal.
    progress: Literal["auto", "bar", "plain", "none"] = "auto"

    def __post_init__(self):
        for name, least in _AT_LEAST.items():
            if getattr(self, name) < least:
                raise InputError(f"{name} is {getattr(self, name)}, expected at least {least}")
        for name, most in _AT_MOST.items():
            if getattr(self, name) > most:
                raise InputError(f"{name} is {getattr(self, name)}, expected at most {most}")
        if self.seed + self.seeds - 1 > _AT_MOST["seed"]:
            raise InputError(
                f"seed is {self.seed} and seeds is {self.seeds}, expected a last seed of at most "
                f"{_AT_MOST['seed']}"
            )
        if not 0 < self.log_share < 1:
            raise InputError(f"log_share is {self.log_share}, expected a share between 0 and 1")
        if not 0 <= self.holdout < 1:
            raise InputError(f"holdout is {self.holdout}, expected a share in [0, 1)")
        if not 0 < self.reward_scale < float("inf"):
            raise InputError(f"reward_scale is {self.reward_scale}, expected a number above 0")
        if self.on_evaluation_error not in ("stop", "continue"):
            raise InputError(
                f"on_evaluation_error is '{self.on_evaluation_error}', expected stop or continue"
            )
        if self.lanes not in ("auto", "vmap", "sequential"):
            raise InputError(f"lanes is '{self.lanes}', expected auto, vmap or sequential")
        if self.process_id >= self.num_processes:
            raise InputError(
                f"process_id is {self.process_id}, expected less than the {self.num_processes} "
                "of num_processes"
            )


_AT_LEAST = {
    "seeds": 1, "seed": 0, "num_updates": 0, "batch_size": 1, "log_every": 1, "eval_every": 0,
    "eval_episodes": 1, "eval_seed": 0, "devices": 0, "num_processes": 1, "process_id": 0,
    "collect_steps": 0, "collect_copies": 0, "random_steps": 0, "buffer_capacity": 0,
    "collect_every": 1,
    "checkpoint_every": 0, "keep": 1, "max_episode_steps": 0, "eval_environments": 0,
    "connect_timeout": 1,
}  # fmt: skip

LARGEST = 2**31 - 1  # step that an int32 counts

# A seed has 32 bits, and more would be cut off without a word.
_AT_MOST = {
    "num_updates": LARGEST, "log_every": LARGEST, "eval_every": LARGEST,
    "checkpoint_every": LARGEST, "seed": 2**32 - 1, "eval_seed": 2**32 - 1,
}  # fmt: skip

# Options that describe how a run is watched, stored or spread, not what it computes: they may
# differ between a run and its continuation. So may `num_updates`, which may grow.
RUN_ONLY = frozenset(
    {
        "num_updates", "log_every", "eval_every", "lanes", "devices", "coordinator_address",
        "num_processes", "process_id", "connect_timeout", "run_dir", "resume", "checkpoint_every",
        "keep", "tensorboard", "plots", "progress", "eval_environments", "on_evaluation_error",
        "eval_at_start",
    }
)  # fmt: skip
