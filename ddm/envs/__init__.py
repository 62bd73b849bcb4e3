"""Simulators as pure JAX functions, their gymnasium face, and data collection."""

from ddm.envs import tabular
from ddm.envs.base import Environment, EnvParams, EnvState, EpisodeKeys, episode_keys
from ddm.envs.collect import collect
from ddm.envs.dialogue import Dialogue
from ddm.envs.fork import Fork
from ddm.envs.memory import Alternator, Brake, TMaze
from ddm.envs.particle import Particle
from ddm.envs.pendulum import Pendulum
from ddm.envs.point_mass import PointMass
from ddm.envs.point_maze import PointMaze, dense_reward, sparse_reward, waypoint_policy
from ddm.envs.registry import ids, make, register
from ddm.envs.road import Road
from ddm.envs.sine_track import SineTrack
from ddm.envs.stream import Stream
from ddm.envs.tabular import TabularEnvironment

__all__ = [
    "Alternator",
    "Brake",
    "Dialogue",
    "EnvParams",
    "EnvState",
    "Environment",
    "EpisodeKeys",
    "Fork",
    "Particle",
    "Pendulum",
    "PointMass",
    "PointMaze",
    "Road",
    "SineTrack",
    "Stream",
    "TMaze",
    "TabularEnvironment",
    "collect",
    "dense_reward",
    "episode_keys",
    "ids",
    "make",
    "register",
    "sparse_reward",
    "tabular",
    "waypoint_policy",
]
