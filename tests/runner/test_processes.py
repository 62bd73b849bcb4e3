"""Several processes: threads of this one stand for them, but where one is killed."""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import linear_regression
import numpy as np
import pytest
import tiny

from ddm import evaluation
from ddm.errors import DivergenceError, EvaluationError, InputError, ProcessError
from ddm.runner import checkpoints, connections, meeting, processes, records, train
from ddm.runner.connections import Group
from ddm.runner.meeting import meet, parse_address


def free_address(host="127.0.0.1"):
    with socket.socket() as probe:
        probe.bind((host, 0))
        return f"{host}:{probe.getsockname()[1]}"


def at_once(functions):
    """What each function returns or raises, each in its own thread."""
    with concurrent.futures.ThreadPoolExecutor(len(functions)) as pool:
        futures = [pool.submit(function) for function in functions]
        return [future.exception(timeout=240) or future.result() for future in futures]


@pytest.fixture
def joined():
    """A function that makes the groups of some processes, which have found each other."""
    made: list[Group] = []

    def joined(count):
        address = free_address()
        made.extend(at_once([lambda i=i: meet(address, count, i, 60.0) for i in range(count)]))
        return made[-count:]

    yield joined
    at_once([group.leave for group in made]) if made else None


@pytest.fixture
def run_all(joined, monkeypatch):
    """A function that calls functions in as many processes, and returns how each one ended."""
    local = threading.local()
    monkeypatch.setattr(processes, "current", lambda: getattr(local, "group", Group()))
    # Python 3.11 cannot parse sources in two threads at a time, as `inspect` does for comments.
    read, one_by_one = records.flag_fields, threading.Lock()

    def flag_fields(cls):
        with one_by_one:
            return read(cls)

    monkeypatch.setattr(records, "flag_fields", flag_fields)

    def run_all(*functions):
        def call(group, function):
            local.group = group
            return function()

        groups = joined(len(functions))
        return at_once(
            [lambda g=g, f=f: call(g, f) for g, f in zip(groups, functions, strict=True)]
        )

    return run_all


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("127.0.0.1:80", ("127.0.0.1", 80)),
        ("node-3.example:65535", ("node-3.example", 65535)),
        ("[::1]:1234", ("::1", 1234)),
        ("[fe80::1%eth0]:1", ("fe80::1%eth0", 1)),
    ],
)
def test_addresses(text, expected):
    assert parse_address(text) == expected


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("foo", "expected host:port"),
        (":80", "expected host:port"),
        ("::1:80", "expected host:port"),
        ("a b:80", "expected host:port"),
        ("127.0.0.1:", "the port is '', expected a number"),
        ("127.0.0.1:notaport", "the port is 'notaport', expected a number"),
        ("127.0.0.1:0", "the port is '0'"),
        ("127.0.0.1:65536", "the port is '65536'"),
        ("127.0.0.1:-1", "the port is '-1'"),
        ("[127.0.0.1]:80", "Unexpected|Expected|not permitted|At least"),
    ],
)
def test_what_is_no_address_is_refused(text, says):
    with pytest.raises(InputError, match=says):
        processes.join_processes(text, 2, 0)


def test_joining_needs_an_address_and_an_index():
    with pytest.raises(InputError, match="--coordinator_address is missing"):
        processes.join_processes("", 2, 0)
    with pytest.raises(InputError, match="process_id is 2, expected less than the 2"):
        processes.join_processes("127.0.0.1:80", 2, 2)
    processes.join_processes("", 1, 0)
    assert processes.current().count == 1


def test_a_port_in_use_a_foreign_address_and_an_unknown_host():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(InputError, match=r"cannot listen on port \d+ of 127.0.0.1 .*in use"):
            meet(address, 2, 0, 1.0)
    with pytest.raises(InputError, match=r"cannot listen on port 4567 of 192.0.2.1 "):
        meet("192.0.2.1:4567", 2, 0, 1.0)
    for index in (0, 1):
        with pytest.raises(InputError, match=r"host 'no-such-host[.]invalid', which is unknown"):
            meet("no-such-host.invalid:4567", 2, index, 1.0)
        with pytest.raises(InputError, match="which is unknown"):
            meet(f"{'x' * 70}:4567", 2, index, 1.0)


def test_nobody_answers(monkeypatch, capfd):
    monkeypatch.setattr(meeting, "_SPEAK_AFTER", 0.0)
    address = free_address()
    with pytest.raises(InputError, match=r"not found there within 0.3 s .*--connect_timeout"):
        meet(address, 2, 1, 0.3)
    assert f"process 1 waits for process 0 at {address}" in capfd.readouterr().err
    with pytest.raises(InputError, match=r"processes 1, 2 did not connect .* within 0.3 s"):
        meet(address, 3, 0, 0.3)
    assert f"process 0 waits at {address} for processes 1, 2" in capfd.readouterr().err


def test_the_others_are_told_that_one_never_came():
    address = free_address()
    zero, one = at_once([lambda: meet(address, 3, 0, 2.0), lambda: meet(address, 3, 1, 60.0)])
    assert isinstance(zero, InputError)
    assert str(zero).startswith("process 2 did not connect")
    assert str(one) == f"process 0 stopped: {zero}"


@pytest.mark.parametrize(
    ("count", "index", "says"),
    [
        (2, 1, "process 1 has num_processes=2, process 0 has 3"),
        (3, 3, "process_id=3 is taken"),
        (3, 1, "process_id=1 is taken, expected each number below 3 once"),
    ],
)
def test_processes_that_do_not_fit_together(monkeypatch, count, index, says):
    monkeypatch.setattr(meeting, "_LATECOMERS", 2.0)
    address = free_address()
    ends = at_once(
        [
            lambda: meet(address, 3, 0, 60.0),
            lambda: meet(address, 3, 1, 60.0),
            lambda: meet(address, count, index, 60.0),
        ]
    )
    assert isinstance(ends[0], InputError)
    assert all(says in str(end) for end in ends)


def test_strangers_are_left_alone_and_a_process_may_start_again():
    address = free_address()
    place = parse_address(address)
    waiting = threading.Thread(target=lambda: ends.extend(at_once([zero])))
    ends: list = []

    def zero():
        return meet(address, 2, 0, 60.0)

    waiting.start()
    for words in (b"GET / HTTP/1.1\r\n\r\n", b"", connections._FRAME.pack(b"ddm1", b"h", 2**60)):
        _connect(place, words).close()
    # A frame of which the greeting is no greeting.
    _connect(place, connections._FRAME.pack(b"ddm1", b"h", 4) + b"[[[[").close()
    one = meet(address, 2, 1, 60.0)
    waiting.join()
    assert isinstance(ends[0], Group)
    at_once([ends[0].leave, one.leave])


def _connect(place, words):
    for _ in range(100):
        with contextlib.suppress(ConnectionRefusedError):
            connection = socket.create_connection(place, timeout=5.0)
            connection.sendall(words)
            return connection
    raise AssertionError("nobody listens")


def test_process_0_listens_on_the_address_that_it_was_given():
    with meeting._listen(*parse_address(free_address())) as server:
        host, port = server.getsockname()
        assert host == "127.0.0.1"
        with pytest.raises(OSError, match=r"refused|unreachable|assign"):
            socket.create_connection(("127.0.0.2", port), timeout=2.0)


def test_what_is_gathered_keeps_its_order_and_its_bits(run_all):
    def exchange():
        index = processes.current().index
        arrays = {
            "float64": np.array([[1.0 + 2.0**-50 * index]]),
            "int64": np.array([2**60 + index]),
            "bool": np.array([index == 1]),
            "empty": np.zeros((0, 3), np.float32),
        }
        return (
            processes.largest(-5 - index),
            processes.gather_values({"i": index}),
            processes.broadcast_value(f"from {index}"),
            processes.gather_arrays(arrays),
            processes.broadcast(arrays),
        )

    for largest, values, first, gathered, sent in run_all(exchange, exchange, exchange):
        assert (largest, first) == (-5, "from 0")
        assert values == [{"i": 0}, {"i": 1}, {"i": 2}]
        expected = 1.0 + 2.0**-50 * np.arange(3.0)[:, None]
        np.testing.assert_array_equal(gathered["float64"], expected, strict=True)
        assert gathered["int64"].tolist() == [2**60, 2**60 + 1, 2**60 + 2]
        assert gathered["bool"].tolist() == [False, True, False]
        assert gathered["empty"].shape == (0, 3)
        assert (sent["float64"][0, 0], sent["int64"][0]) == (1.0, 2**60)


@pytest.mark.parametrize("failing", [0, 1, 2])
def test_an_error_of_one_process_ends_the_others_with_a_sentence(run_all, failing):
    def work():
        with processes.together():
            processes.largest(0)
            if processes.current().index == failing:
                raise InputError("the disk is full")
            processes.largest(0)

    ends = run_all(work, work, work)
    expected = [f"process {failing} stopped: the disk is full"] * 3
    expected[failing] = "the disk is full"
    assert [str(end) for end in ends] == expected
    assert [type(end) for end in ends].count(ProcessError) == 2


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (TypeError("no\nsuch"), "process 1 stopped: TypeError: no such"),
        (KeyboardInterrupt(), "process 1 stopped: interrupted"),
        (SystemExit(0), "process 1 has ended its part of the run, and process 0 has not"),
    ],
)
def test_other_ends_are_told_too(run_all, monkeypatch, error, says):
    monkeypatch.setattr(connections, "_FAREWELL", 0.5)

    def fail():
        with processes.others_told():
            raise error

    ends = run_all(lambda: processes.largest(0), fail)
    assert str(ends[0]) == says


@pytest.mark.parametrize("killed", [0, 1])
def test_a_lost_connection_ends_the_others_with_a_sentence(run_all, killed):
    def work():
        group = processes.current()
        processes.largest(0)
        if group.index == killed:
            group._failure = "dead"  # and so it says nothing more
            for line in group._lines.values():
                line._connection.shutdown(socket.SHUT_RDWR)
            return None
        return processes.largest(0)

    ends = run_all(work, work, work)
    assert ends[killed] is None
    others = [end for i, end in enumerate(ends) if i != killed]
    assert all(isinstance(end, ProcessError) for end in others)
    assert all(str(end).startswith(f"process {killed} is gone") for end in others)


@pytest.mark.parametrize(
    ("busy", "writes", "expected"), [(True, False, [1]), (True, True, []), (False, False, [])]
)
def test_a_process_that_computes_on_is_ended(joined, monkeypatch, capfd, busy, writes, expected):
    codes, over = [], threading.Event()
    monkeypatch.setattr(os, "_exit", lambda code: (codes.append(code), over.set()))
    zero, one = joined(2)
    zero.busy, zero._patience = busy, 0.0
    with zero.undisturbed() if writes else contextlib.nullcontext():
        one.leave("a simulator failed")
        assert zero._failed.wait(10.0)
        over.wait(10.0 if expected else 0.3)
        assert codes == expected
        zero._noticed.set()
    error = capfd.readouterr().err
    assert error == ("\nerror: process 1 stopped: a simulator failed\n" if expected else "")


def asked(folder, index, *, config=None, dataset=None, environment=None, **options):
    """A call of `train` by one of two processes."""
    options = tiny.make_options(folder, num_processes=2, process_id=index, **options)
    config = linear_regression.Config(**(config or {}))
    data = dataset or tiny.make_dataset()
    return lambda: train(linear_regression, config, data, environment, options)


def other_log():
    log = tiny.make_dataset()
    return dataclasses.replace(log, actions=-np.asarray(log.actions))


@pytest.mark.parametrize(
    ("other", "says"),
    [
        (
            {"config": {"learning_rate": 0.2}},
            "the hyper-parameter learning_rate=0.2, process 0 has 0.1",
        ),
        ({"dataset": other_log()}, "the dataset's digest="),
        ({"log_every": 2}, "log_every=2, process 0 has 4"),
        ({"eval_every": 0}, "eval_every=0, process 0 has 4"),
        ({"num_updates": 16}, "num_updates=16, process 0 has 12"),
        ({"checkpoint_every": 8}, "checkpoint_every=8, process 0 has 4"),
        ({"seed": 1}, "seed=1, process 0 has 0"),
        ({"seeds": 3}, "seeds=3, process 0 has 2"),
        ({"batch_size": 4}, "batch_size=4, process 0 has 8"),
        ({"environment": tiny.Target()}, "environment=Target, process 0 has None"),
        ({"lanes": "vmap"}, "lanes=vmap, process 0 has auto"),
        ({"resume": True}, "resume=True, process 0 has False"),
    ],
)
def test_processes_that_differ_are_refused(run_all, tmp_path, other, says):
    folder = tmp_path / "run"
    ends = run_all(asked(folder, 0, seeds=2), asked(folder, 1, **{"seeds": 2, **other}))
    assert all(isinstance(end, InputError) for end in ends)
    assert f"process 1 has {says}" in str(ends[0])
    assert str(ends[0]) == str(ends[1])
    assert not folder.exists()


def test_machines_that_differ_are_refused(run_all):
    record = {
        "algorithm": "a", "config": {"f": "<f at 0x1>"}, "options": {"num_processes": 2},
        "script_flags": {}, "schedule_length": 1, "environment": None, "environment_spec": None,
        "dataset": {"transitions": 1, "episodes": 1, "digest": "0"},
        "versions": {"jax": "0.8", "mujoco": "3"}, "commit": "c",
    }  # fmt: skip
    other = {**record, "config": {"f": "<f at 0x2>"}, "versions": {"jax": "0.8"}, "commit": None}

    def check(record, devices=1):
        return lambda: processes.check_same_run(record, {"number of devices used": devices})

    assert run_all(check(record), check(other)) == [None, None]
    ends = run_all(check(record), check(record, devices=2))
    assert "process 1 has the number of devices used=2, process 0 has 1" in str(ends[0])
    ends = run_all(check(record), check({**record, "versions": {"jax": "0.9"}}))
    assert "process 1 has version of jax=0.9, process 0 has 0.8" in str(ends[1])


def test_a_run_of_processes_that_have_not_joined_is_refused(tmp_path):
    with pytest.raises(InputError, match="num_processes is 2, and this process has joined 1"):
        asked(tmp_path, 0)()


def test_what_process_0_alone_sees_ends_both(run_all, tmp_path):
    (tmp_path / "config.json").write_text("{}")
    ends = run_all(asked(tmp_path, 0, seeds=2), asked(tmp_path, 1, seeds=2))
    assert isinstance(ends[0], InputError)
    assert "already holds a run" in str(ends[0])
    assert str(ends[1]) == f"process 0 stopped: {ends[0]}"


def test_a_disk_that_fills_up_ends_both(run_all, tmp_path, monkeypatch):
    save = checkpoints.Store.save

    def full(self, step, *arguments):
        if step == 8:
            raise InputError("no space left on the device")
        save(self, step, *arguments)

    monkeypatch.setattr(checkpoints.Store, "save", full)
    folder = tmp_path / "run"
    ends = run_all(asked(folder, 0, seeds=2), asked(folder, 1, seeds=2))
    assert [type(end) for end in ends] == [InputError, ProcessError]
    assert str(ends[1]) == "process 0 stopped: no space left on the device"


class FailsInProcess1:
    """An evaluator of which no result is ever used."""

    def check(self, policy):
        pass

    def close(self):
        pass

    def __call__(self, policy, seed):
        if processes.current().index == 1:
            raise EvaluationError("no display")


def test_an_evaluation_that_fails_in_one_process_ends_both(run_all, tmp_path, monkeypatch):
    monkeypatch.setattr(evaluation, "make_evaluator", lambda *_, **__: FailsInProcess1())
    given = {"seeds": 2, "environment": tiny.Target(), "eval_at_start": False}
    ends = run_all(*(asked(tmp_path / "run", i, **given) for i in range(2)))
    assert all(isinstance(end, EvaluationError) for end in ends)
    kept = "; the checkpoint of step 4 is written, --resume goes on from it"
    assert [str(end) for end in ends] == [f"process 1: no display{kept}", f"no display{kept}"]


def test_lanes_that_diverge_end_both_with_their_own_sentence(run_all, tmp_path):
    config, folder = {"explode_at": 6}, tmp_path / "run"
    ends = run_all(
        asked(folder, 0, seeds=2, config=config), asked(folder, 1, seeds=2, config=config)
    )
    assert all(isinstance(end, DivergenceError) for end in ends)
    assert "the last checkpoint is of step 4" in str(ends[0])
    assert str(ends[0]) == str(ends[1])


SCRIPT = f"""
import os, signal, sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
import linear_regression, tiny
from absl import flags
from ddm import runner

runner.define_flags(
    linear_regression, num_updates=8, log_every=4, eval_every=4, batch_size=8, seeds=2, plots=False
)

def killed(config, metrics):
    os.kill(os.getpid(), signal.SIGKILL)

def main(_):
    options, config = runner.parse_flags(linear_regression)
    if options.process_id == 1:
        linear_regression.diagnose = killed
    runner.train(linear_regression, config, tiny.make_dataset(), None, options)

runner.launch(main)
"""


@pytest.mark.slow
def test_a_killed_process_ends_the_other_with_a_sentence(tmp_path):
    given = ["--dataset=tiny", f"--run_dir={tmp_path}/run", "--num_processes=2"]
    given.append(f"--coordinator_address={free_address()}")
    zero, one = (
        subprocess.Popen(
            [sys.executable, "-c", SCRIPT, *given, f"--process_id={i}"],
            stderr=subprocess.PIPE,
            text=True,
        )
        for i in range(2)
    )
    _, said = zero.communicate(timeout=120)
    assert one.wait(timeout=120) == -signal.SIGKILL
    assert zero.returncode == 1
    assert said.splitlines()[-1].startswith("error: process 1 is gone: it was killed")
