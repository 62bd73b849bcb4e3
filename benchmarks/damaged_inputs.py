"""Thousands of damaged data files, each of which must end in a sentence or in the whole content.

    python benchmarks/damaged_inputs.py --count=100 --csv=benchmarks/results/reliability.csv

Every damage of `damages.py` is tried once, and every kind of damage by chance `--count` times for
each format, with seeds from `--seed` on. What is wrong is printed: an error that is not an
`InputError` or does not name the file, and a file that was loaded although its damage can be seen.
Each format runs in a process of its own, so that a crash of a library in C is counted, too.
"""

from __future__ import annotations

import collections
import concurrent.futures
import multiprocessing
import tempfile
from pathlib import Path

import damages
import numpy as np
import reliability
from absl import app, flags

FLAGS = flags.FLAGS
flags.DEFINE_integer("count", 100, "damages by chance of each kind and format", lower_bound=0)
flags.DEFINE_integer("seed", 0, "the first seed")
flags.DEFINE_string("csv", None, "table whose rows of this script are replaced")

# At the first examination: of 1,212 inputs of another, hand-made collection.
BEFORE = {"traceback": 219, "loaded": 142}
UNITS = {"traceback": "tracebacks", "loaded": "loaded although damaged", "crash": "crashes"}


def run_format(name: str, seeds: range) -> list[damages.Outcome]:
    """What becomes of all damaged files of a format."""
    form = next(form for form in damages.formats() if form.name == name)
    with tempfile.TemporaryDirectory() as folder:
        bench = damages.Bench(form, Path(folder))
        outcomes = [bench.try_out(damage, np.random.default_rng(0)) for damage in form.damages]
        for seed in seeds:
            rng = np.random.default_rng(seed)
            outcomes += [bench.chance(kind, rng) for kind in damages.CHANCE]
    return outcomes


def run_apart(name: str, seeds: range) -> list[damages.Outcome]:
    """The same in a new process; its death is one more outcome."""
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as pool:
        try:
            return pool.submit(run_format, name, seeds).result()
        except concurrent.futures.process.BrokenProcessPool:
            return [damages.Outcome(name, "a process", "crash", "the process died")]


def main(argv: list[str]) -> None:
    """Tries all formats and prints the table."""
    del argv
    seeds = range(FLAGS.seed, FLAGS.seed + FLAGS.count)
    rows, total = [], collections.Counter()
    for form in damages.formats():
        outcomes = run_apart(form.name, seeds)
        verdicts = collections.Counter(outcome.verdict for outcome in outcomes)
        for outcome in outcomes:
            if outcome.verdict != "good":
                print(
                    f"{outcome.format}, {outcome.what}: {outcome.verdict}: {outcome.detail[:200]}"
                )
        for verdict, unit in UNITS.items():
            rows.append(
                reliability.Row(
                    f"damaged {form.name}", len(outcomes), None, verdicts[verdict], unit
                )
            )
        total.update(verdicts)
    for verdict, unit in UNITS.items():
        row = reliability.Row(
            "damaged data files", total.total(), BEFORE.get(verdict), total[verdict], unit
        )
        rows.append(row)
    reliability.print_rows(rows)
    if FLAGS.csv:
        reliability.write_rows(FLAGS.csv, "damaged_inputs", rows)


if __name__ == "__main__":
    app.run(main)
