from __future__ import annotations

import sys

import numpy as np
import pytest

from ddm.errors import InputError, MissingDependencyError
from ddm.runner.metrics import MetricsWriter, read_metrics
from ddm.runner.sweep import Lane

LANES = [Lane(0, (("alpha", 0.1),)), Lane(1, (("alpha", 0.1),))]


def write(path, *steps, **options):
    writer = MetricsWriter(path, LANES, **options)
    for step in steps:
        writer.write(step, {"loss": np.float32([step, step + 0.25])})
    writer.close()


def test_rows_are_tidy(tmp_path):
    path = tmp_path / "metrics.csv"
    write(path, 1)
    assert path.read_text() == "step,seed,alpha,metric,value\n1,0,0.1,loss,1\n1,1,0.1,loss,1.25\n"


def test_what_was_written_is_read(tmp_path):
    path = tmp_path / "metrics.csv"
    write(path, 1, 2)
    history = read_metrics(path, LANES)
    assert list(history) == ["loss"]
    np.testing.assert_array_equal(history["loss"][2], [2, 2.25])


def test_rows_are_on_disk_after_each_write(tmp_path):
    path = tmp_path / "metrics.csv"
    writer = MetricsWriter(path, LANES)
    writer.write(1, {"loss": np.zeros(2)})
    assert len(path.read_text().splitlines()) == 3
    writer.close()


def test_rows_after_the_step_of_a_resumed_run_are_dropped(tmp_path):
    path = tmp_path / "metrics.csv"
    write(path, 1, 2, 3)
    with path.open("a") as file:
        file.write("3,1,0.")  # killed while writing
    write(path, 3, resume_step=2)
    assert [line.split(",")[0] for line in path.read_text().splitlines()[1:]] == list("112233")


def test_another_header_is_refused(tmp_path):
    path = tmp_path / "metrics.csv"
    path.write_text("step,seed,metric,value\n")
    with pytest.raises(
        InputError, match="first line is step,seed,metric,value, expected step,seed,al"
    ):
        write(path, resume_step=1)


def test_tensorboard_events_of_every_lane(tmp_path):
    pytest.importorskip("tensorboardX")
    write(tmp_path / "metrics.csv", 1, tensorboard=True)
    folders = {path.parent.name for path in tmp_path.rglob("events.*")}
    assert folders == {"seed_0_alpha=0.1", "seed_1_alpha=0.1"}


def test_tensorboard_that_is_not_installed(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(
        MissingDependencyError, match="--tensorboard needs tensorboardX: pip install"
    ):
        write(tmp_path / "metrics.csv", tensorboard=True)
