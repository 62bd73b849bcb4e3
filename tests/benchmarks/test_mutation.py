"""The faults that the mutation benchmark puts into the sources, and the benchmark itself."""

import importlib.util
import pathlib
import sys

import pytest

ROOT = pathlib.Path(__file__).parent.parent.parent


def _load():
    spec = importlib.util.spec_from_file_location("mutation", ROOT / "benchmarks" / "mutation.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["mutation"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


mutation = _load()


def _exists(test):
    path, _, name = test.partition("::")
    name = name.partition("[")[0]
    return (ROOT / path).exists() and (not name or f"def {name}(" in (ROOT / path).read_text())


def test_every_fault_fits_the_sources():
    """A line that was rewritten takes its faults along: the list stays alive."""
    faults = mutation.read_faults()
    texts = {fault.file: (ROOT / fault.file).read_text() for fault in faults}
    wrong = [str(f) for f in faults if texts[f.file].count(f.find) != 1 or f.find == f.replace]
    assert not wrong
    nowhere = {test for fault in faults for test in fault.tests if not _exists(test)}
    assert not nowhere
    assert len({str(fault) for fault in faults}) == len(faults)


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    """A tree with one function, and a test that sees half of it."""
    root = tmp_path_factory.mktemp("toy")
    (root / "ddm").mkdir()
    (root / "tests").mkdir()
    (root / "ddm" / "toy.py").write_text("def size(x):\n    return x if x > 0 else -x\n")
    (root / "tests" / "test_toy.py").write_text(
        "import importlib.util\n"
        "spec = importlib.util.spec_from_file_location('toy', 'ddm/toy.py')\n"
        "toy = importlib.util.module_from_spec(spec)\n"
        "spec.loader.exec_module(toy)\n"
        "def test_size():\n"
        "    assert toy.size(2) == 2\n"
    )
    (root / "pyproject.toml").write_text("[tool.pytest.ini_options]\n")
    return root


def _fault(find, replace, **fields):
    tests = fields.pop("tests", ("tests/test_toy.py::test_size",))
    return mutation.Fault("toys", "ddm/toy.py", find, replace, tests, "a toy", **fields)


def test_faults_are_noticed_or_survive(toy):
    assert mutation.is_noticed(_fault("return x", "return 2 * x"), 60.0, toy) == (
        True, "tests/test_toy.py::test_size",
    )  # fmt: skip
    assert not mutation.is_noticed(_fault("else -x", "else x"), 60.0, toy)[0]
    assert (toy / "ddm" / "toy.py").read_text().count("return x if x > 0 else -x") == 1


def test_what_cannot_be_tried_is_no_success(toy):
    with pytest.raises(ValueError, match="stands 0 times"):
        mutation.is_noticed(_fault("return y", "return x"), 60.0, toy)
    with pytest.raises(ValueError, match="stands 4 times"):
        mutation.is_noticed(_fault("x", "y"), 60.0, toy)
    nowhere = ("tests/test_toy.py::test_gone",)
    with pytest.raises(ValueError, match="no test ran"):
        mutation.is_noticed(_fault("else -x", "else x", tests=nowhere), 60.0, toy)


def test_the_named_tests_must_pass_without_a_fault(toy, tmp_path):
    faults = [_fault("else -x", "else x")]
    mutation.check_unmutated(faults, 60.0, toy)
    mutation.copy_tree(toy, tmp_path)
    faults[0].apply(tmp_path)
    mutation.Fault("toys", "ddm/toy.py", "return x", "return 3", (), "").apply(tmp_path)
    with pytest.raises(SystemExit, match=r"fails without a fault: tests/test_toy.py::test_size"):
        mutation.check_unmutated(faults, 60.0, tmp_path)


def test_too_few_noticed_faults_are_a_failure(capsys, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    good = [_fault("x", str(i)) for i in range(19)]
    bad = [_fault("x", "y", survives="a toy need not be right"), _fault("x", "z")]
    assert mutation._report({**dict.fromkeys(good, True), bad[0]: False}, write=False) == 0
    assert mutation._report({**dict.fromkeys(good, True), **dict.fromkeys(bad, False)}, False) == 1
    printed = capsys.readouterr().out
    assert "95.0% of 20 faults noticed" in printed
    assert "a toy: a toy need not be right" in printed
    assert "NO REASON GIVEN" in printed
