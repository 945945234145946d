from __future__ import annotations

import subprocess
import sys
import types
from pathlib import Path

import pytest

from tests.mutants.__main__ import TABLE, FailingTests, judge, report
from tests.mutants.mutate import mutants
from tests.mutants.server import code_of, code_swaps, functions_of

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[2]


def changes(source: str) -> set[str]:
    return {one.change for one in mutants(source)}


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("x = a < b", {"a < b  ->  a <= b"}),
        ("x = a in b", {"a in b  ->  a not in b"}),
        ("x = a and b", {"a and b  ->  a or b"}),
        ("x = a + b", {"a + b  ->  a - b"}),
        ("x = not a", {"not a  ->  not not a"}),
        ("x = -a", {"-a  ->  +a"}),
        ("x = True", {"True  ->  False"}),
        ("x = 3", {"3  ->  4"}),
        ("x = 2048", {"2048  ->  4096"}),
        ("x = max(a, b)", {"max  ->  min"}),
        ("a.b = c", {"a.b = c  ->  pass"}),
        ("a.b += c", {"a.b += c  ->  a.b -= c", "a.b += c  ->  pass"}),
        ("prefetch()", {"prefetch()  ->  pass"}),
        ("x = a if b else c", {"a if b else c  ->  a if not b else c"}),
        ("def f(a):\n    return a", {"return a  ->  return None"}),
        ("def f(a):\n    x = a\n    g(x)", {"g(x)  ->  pass", "def f(a): ... g(x)  ->  def f(a): ... pass"}),
    ],
)
def test_what_may_be_done(source: str, expected: set[str]) -> None:
    assert changes(source) == expected


@pytest.mark.parametrize(
    "source",
    [
        '"""A docstring."""',
        "x: int | None",
        "def f(x: A | B) -> A | B:\n    return None",
        'log.warning("%d of 3", 2)',
        "raise ValueError(1 + 1)",
        "import a",
        "class A(Struct, frozen=True):\n    pass",
        "if TYPE_CHECKING:\n    import a",
        'x = f"{a + 1}"',
    ],
)
def test_what_says_nothing_is_left_alone(source: str) -> None:
    assert changes(source) == set()


@pytest.mark.parametrize("name", ["edge_runtime/decide.py", "edge_runtime/health.py", "edge_runtime/mailbox.py"])
def test_every_mutant_compiles_differs_from_all_others_and_has_its_line(name: str) -> None:
    module = ROOT / name
    source = module.read_text(encoding="utf-8")
    assert len(mutants(source)) > 20
    made = mutants(source)
    assert len({one.source for one in made}) == len(made)
    for one in made:
        compile(one.source, str(module), "exec")
        assert 1 <= one.line <= source.count("\n") + 1


def test_killed_survived_and_endless_are_told_apart(tmp_path: Path) -> None:
    project = tmp_path / "project"
    (project / "calibration").mkdir(parents=True)
    (project / "tests").mkdir()
    module = project / "calibration" / "limits.py"
    module.write_text("def low(x):\n    return x < 3\n\n\ndef high(x):\n    return x > 5\n")
    (project / "tests" / "test_limits.py").write_text(
        "from calibration.limits import low\n\n\ndef test_low():\n    assert low(2) and not low(3) and not low(4)\n"
    )
    (project / "pyproject.toml").write_text('[tool.pytest.ini_options]\naddopts = "--import-mode=importlib"\n')
    (project / "calibration" / "__init__.py").touch()  # a package as others are: found before an installed one
    before = module.read_bytes()
    found = judge(project, "calibration/limits.py", ["tests/test_limits.py"], jobs=2)
    # Of `high` nothing is tested; of `low` the limit is, from both sides.
    assert {(row["line"], row["outcome"]) for row in found["mutants"]} == {(2, "killed"), (6, "survived")}  # type: ignore[attr-defined]
    assert (found["killed"], found["survived"], found["timeout"]) == (3, 3, 0)
    assert module.read_bytes() == before
    tests = (project / "tests" / "test_limits.py").read_text()
    more = (
        tests + "\n\ndef test_high():\n    from calibration.limits import high\n\n    assert high(6) and not high(5)\n"
    )
    (project / "tests" / "test_limits.py").write_text(more)
    again = judge(project, "calibration/limits.py", ["tests/test_limits.py"], before=found)
    assert (again["killed"], again["survived"], again["timeout"]) == (6, 0, 0)
    assert sorted(map(str, again["mutants"])) != sorted(map(str, found["mutants"]))  # type: ignore[call-overload]
    (project / "tests" / "test_limits.py").write_text("def test_it():\n    assert False\n")
    with pytest.raises(FailingTests, match="its tests do not pass as it is"):
        judge(project, "calibration/limits.py", ["tests/test_limits.py"])


MODULE = """
from functools import cache
LIMIT = 3
class Box:
    size: int = 2
    def __init__(self, size=4):
        self.size = size
    @property
    def twice(self):
        return self.size * 2
    @cache
    def outer(self):
        def inner():
            return 1
        return inner()
def low(x):
    return x < LIMIT
high = lambda x: x > LIMIT
"""


@pytest.mark.parametrize(
    ("old", "new", "function"),
    [
        ("self.size = size", "pass", "Box.__init__"),
        ("self.size * 2", "self.size / 2", "Box.twice"),
        ("return 1", "return 2", "Box.outer"),
        ("x < LIMIT", "x <= LIMIT", "low"),
        ("LIMIT = 3", "LIMIT = 4", None),
        ("size: int = 2", "size: int = 3", None),
        ("size=4", "size=5", None),
        ("x > LIMIT", "x >= LIMIT", None),
    ],
)
def test_only_what_lies_within_functions_is_changed_in_place(old: str, new: str, function: str | None) -> None:
    module = types.ModuleType("made")
    exec(code_of(MODULE, "made.py"), module.__dict__)
    swaps = code_swaps(code_of(MODULE, "m"), code_of(MODULE.replace(old, new), "m"), functions_of(module))
    assert [found.__qualname__ for found, _ in swaps or ()] == ([] if function is None else [function])
    assert (swaps is None) == (function is None)
    assert code_swaps(code_of(MODULE, "m"), code_of("\n\n" + MODULE, "m"), functions_of(module)) == []


def test_a_function_changed_in_place_is_changed_for_all_who_imported_it() -> None:
    module = types.ModuleType("made")
    exec(code_of(MODULE, "made.py"), module.__dict__)
    low = module.low
    swaps = code_swaps(code_of(MODULE, "m"), code_of(MODULE.replace("x <", "x >"), "m"), functions_of(module))
    assert swaps is not None
    ((function, code),) = swaps
    assert low(2)
    function.__code__ = code
    assert not low(2)


def test_the_report_holds_every_module_judged_so_far(tmp_path: Path) -> None:
    import json

    row = {"line": 6, "change": "a  ->  b", "outcome": "survived"}
    one = {"module": "a.py", "made": 9, "killed": 3, "timeout": 0, "survived": 1, "mutants": [row]}
    for name in ("a.py", "b.py"):
        (tmp_path / f"{name}.json").write_text(json.dumps({**one, "module": name}))
    text = report(tmp_path)
    assert "| a.py | 4 of 9 | 3 | 0 | 1 | 25% |" in text and "| b.py |" in text
    assert "- line 6: `a  ->  b`" in text


def test_the_table_s_modules_and_tests_are_there() -> None:
    for module, tests in tomllib.loads(TABLE.read_text(encoding="utf-8")).items():
        assert (ROOT / module).is_file(), module
        assert tests and all((ROOT / test.partition("::")[0]).is_file() for test in tests), tests


def test_a_name_that_fits_no_module_is_said_in_one_line() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.mutants", "nowhere"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout.count("\n")) == (2, 1)
