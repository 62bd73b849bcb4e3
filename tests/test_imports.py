"""Importing the library stays light: heavy packages are imported where they are used."""

import subprocess
import sys

HEAVY = ("distrax", "tensorflow_probability", "gymnasium", "minari", "h5py", "matplotlib",
         "mujoco", "tensorboardX")  # fmt: skip

CODE = """
import sys
import contract
import ddm
from ddm import data, envs, evaluation, networks, ops, runner
contract.algorithms()
print([name for name in {heavy} if name in sys.modules])
"""


def test_heavy_packages_wait_until_they_are_used():
    path = repr([each for each in sys.path if each])
    code = f"import sys; sys.path[:0] = {path}" + CODE.format(heavy=HEAVY)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
