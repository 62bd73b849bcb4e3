"""Puts faults into copies of the sources, one at a time, and counts those that a test notices.

A fault is one `[[fault]]` of benchmarks/mutants/*.toml:

  file      the source, as "ddm/runner/program.py"
  find      text that stands in it exactly once
  replace   what it becomes
  tests     the tests that should notice: files or node ids, which run in seconds
  why       the fault in a few words
  slow      true where only tests that are marked slow notice it; left out otherwise
  survives  why no test can or need notice it; left out otherwise

All named tests first run once without a fault, and must pass. The exit code is 1 where fewer than
95 % of the faults are noticed.

  python benchmarks/mutation.py --only='runner' --workers=2
"""

from __future__ import annotations

import argparse
import concurrent.futures
import dataclasses
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterable, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FAULTS = ROOT / "benchmarks" / "mutants"
RESULTS = ROOT / "benchmarks" / "results" / "reliability.csv"
COPIED = ("ddm", "tests", "experiments", "benchmarks", "pyproject.toml")
ENOUGH = 0.95  # share of the faults that must be noticed

# Of the 86 faults of the first examination, which named no tests: those that nothing noticed.
SURVIVED_BEFORE = 34

PASSED, FAILED, INTERRUPTED = 0, 1, 2  # pytest's exit codes; an import that fails interrupts it


@dataclasses.dataclass(frozen=True)
class Fault:
    """One wrong line, and the tests that should notice it."""

    group: str  # name of its toml file
    file: str
    find: str
    replace: str
    tests: tuple[str, ...]
    why: str
    slow: bool = False
    survives: str = ""

    def __str__(self) -> str:
        return f"{self.group}: {self.file}: {self.why}"

    def apply(self, root: Path) -> None:
        """Writes the wrong line into the tree at `root`.

        Raises:
          ValueError: the text to replace stands there never, or more than once.
        """
        path = root / self.file
        text = path.read_text(encoding="utf-8")
        if text.count(self.find) != 1 or self.find == self.replace:
            raise ValueError(f"{self}: {self.find!r} stands {text.count(self.find)} times in it")
        path.write_text(text.replace(self.find, self.replace), encoding="utf-8")


def read_faults(folder: Path = FAULTS) -> list[Fault]:
    """All faults of the toml files in a folder, sorted by file name.

    Raises:
      TypeError: a table lacks a field, or has another one.
    """
    found = []
    for path in sorted(folder.glob("*.toml")):
        for table in tomllib.loads(path.read_text(encoding="utf-8"))["fault"]:
            tests = tuple(table.pop("tests"))
            found.append(Fault(group=path.stem, tests=tests, **table))
    return found


def copy_tree(source: Path, target: Path) -> None:
    """Copies what the tests need; compiled modules too, which are used where nothing changed."""
    for name in COPIED:
        if (source / name).is_dir():
            shutil.copytree(source / name, target / name)
        elif (source / name).exists():
            shutil.copy2(source / name, target / name)


def run_tests(root: Path, tests: Iterable[str], slow: bool, timeout: float) -> tuple[bool, str]:
    """Runs tests in the tree at `root` until the first that fails.

    Returns:
      Whether all passed, and what failed (or the end of the output).

    Raises:
      ValueError: none of the tests exists or is selected.
    """
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider"]
    command += [*(["-m", ""] if slow else []), *tests]
    variables = {**os.environ, "PYTHONPATH": str(root)}
    variables.setdefault("JAX_COMPILATION_CACHE_DIR", str(ROOT / ".pytest_cache" / "jax"))
    try:
        done = subprocess.run(
            command, cwd=root, env=variables, timeout=timeout, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return False, f"no end after {timeout:.0f} s"
    if done.returncode not in (PASSED, FAILED, INTERRUPTED):
        raise ValueError(f"no test ran of {' '.join(tests)}:\n{done.stdout[-2000:]}")
    failures = re.findall(r"^(?:FAILED|ERROR) (\S+)", done.stdout, re.MULTILINE)
    return done.returncode == PASSED, failures[0] if failures else done.stdout[-2000:]


def check_unmutated(faults: Sequence[Fault], timeout: float, root: Path = ROOT) -> None:
    """Runs all named tests once as they are.

    Raises:
      SystemExit: one of them fails.
    """
    for slow in (False, True):
        tests = dict.fromkeys(
            test for fault in faults if fault.slow is slow for test in fault.tests
        )
        if not tests:
            continue
        with tempfile.TemporaryDirectory() as folder:
            copy_tree(root, Path(folder))
            passed, failure = run_tests(Path(folder), tests, slow, timeout)
        if not passed:
            sys.exit(f"fails without a fault: {failure}")


def is_noticed(fault: Fault, timeout: float, root: Path = ROOT) -> tuple[bool, str]:
    """Whether the fault's tests fail in a copy that has it, and which one does."""
    with tempfile.TemporaryDirectory() as folder:
        copy_tree(root, Path(folder))
        fault.apply(Path(folder))
        passed, failure = run_tests(Path(folder), fault.tests, fault.slow, timeout)
    return not passed, failure


def main(arguments: Sequence[str] | None = None) -> int:
    """Tries the faults and prints what survives."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="regular expression: 'group: file: why'")
    parser.add_argument("--limit", type=int, default=0, help="of the faults, 0 for all")
    parser.add_argument("--workers", type=int, default=1, help="faults that are tried at a time")
    parser.add_argument("--timeout", type=float, default=600.0, help="seconds of one fault's tests")
    parser.add_argument("--csv", action="store_true", help=f"write into {RESULTS.name}")
    options = parser.parse_args(arguments)
    if options.csv and (options.only or options.limit):
        parser.error("--csv is for all faults: leave --only and --limit out")
    faults = [fault for fault in read_faults() if re.search(options.only, str(fault))]
    faults = faults[: options.limit or None]
    check_unmutated(faults, timeout=len(faults) * options.timeout)
    noticed: dict[Fault, bool] = {}
    with concurrent.futures.ThreadPoolExecutor(options.workers) as workers:
        tries = {workers.submit(is_noticed, fault, options.timeout): fault for fault in faults}
        for done in concurrent.futures.as_completed(tries):
            fault = tries[done]
            noticed[fault], failure = done.result()
            print(f"noticed  {fault} [{failure}]" if noticed[fault] else f"SURVIVES {fault}")
            sys.stdout.flush()
    return _report(noticed, write=options.csv)


def _report(noticed: dict[Fault, bool], write: bool) -> int:
    from reliability import Row, print_rows, write_rows

    survivors = [fault for fault in noticed if not noticed[fault]]
    rows = []
    for group in sorted({fault.group for fault in noticed}):
        members = [fault for fault in noticed if fault.group == group]
        missed = sum(fault in survivors for fault in members)
        rows.append(Row(f"faults in {group}", len(members), None, missed, "not noticed"))
    before = SURVIVED_BEFORE
    rows.append(Row("all faults (86 before)", len(noticed), before, len(survivors), "not noticed"))
    print_rows(rows)
    for fault in survivors:
        print(f"survives: {fault}: {fault.survives or 'NO REASON GIVEN'}")
    for fault in noticed:
        if fault.survives and noticed[fault]:
            print(f"is noticed now, though the list says that it survives: {fault}")
    share = 1.0 - len(survivors) / max(1, len(noticed))
    print(f"{share:.1%} of {len(noticed)} faults noticed")
    if write:
        write_rows(RESULTS, "mutation", rows)
    return 0 if share >= ENOUGH else 1


if __name__ == "__main__":
    sys.exit(main())
