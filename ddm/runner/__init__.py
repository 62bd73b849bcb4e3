"""The thin experiment runner: flags, lanes, the training loop, checkpoints, metrics, report."""

from ddm.runner.compare import plot_comparison as plot_comparison
from ddm.runner.compare import score_curve as score_curve
from ddm.runner.files import write_csv as write_csv
from ddm.runner.flags import define_flags as define_flags
from ddm.runner.flags import parse_flags as parse_flags
from ddm.runner.lanes import map_lanes as map_lanes
from ddm.runner.launch import find_environment as find_environment
from ddm.runner.launch import launch as launch
from ddm.runner.launch import load_dataset as load_dataset
from ddm.runner.options import Options as Options
from ddm.runner.policies import load_policy as load_policy
from ddm.runner.processes import join_processes as join_processes
from ddm.runner.train import Result as Result
from ddm.runner.train import train as train
