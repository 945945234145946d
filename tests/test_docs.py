"""What README and docs say can be typed, loaded, imported and opened: commands, configurations, code, links, tests."""

from __future__ import annotations

import ast
import importlib
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest

from edge_runtime.config import Config, convert_strict

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "systemd" / "README.md"]
PAGES += sorted((ROOT / "examples").glob("*/README.md"))


def blocks(language: str) -> Iterator[tuple[str, str]]:
    """Every fenced block in that language, with the page and line where it starts."""
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for found in re.finditer(rf"^( *)```{language}\n(.*?)^ *```", text, re.M | re.S):
            line = text.count("\n", 0, found.start()) + 1
            indent = found[1]
            body = "".join(row.removeprefix(indent) for row in found[2].splitlines(keepends=True))
            yield f"{page.relative_to(ROOT)}:{line}", body


def commands() -> Iterator[tuple[str, list[str]]]:
    """Every command of a shell block as its words; comments are left out, `&&` parts two."""
    for where, body in blocks("sh"):
        for line in body.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            while words:
                end = words.index("&&") if "&&" in words else len(words)
                yield where, words[:end]
                words = words[end + 1 :]


def _program(words: list[str]) -> tuple[click.Group, list[str]] | None:
    """One of ours, and its arguments."""
    name, *rest = [word for word in words if word != "sudo"]
    if name == "python" and rest[:2] == ["-m", "benchmarks"]:
        from benchmarks.__main__ import benchmarks

        return benchmarks, rest[2:]
    if Path(name).name == "edge-runtime":
        from edge_runtime.cli import commands as device

        return device, rest
    if Path(name).name == "build-engines":
        from build_engines.cli import cli as build

        return build, rest
    return None


OURS = [(where, words) for where, words in commands() if _program(words) is not None]


def test_there_are_commands_to_look_at() -> None:
    assert len(OURS) > 25
    assert {words[0] for _, words in OURS} >= {"edge-runtime", "build-engines", "python"}


@pytest.mark.parametrize(
    ("where", "words"), OURS, ids=lambda value: value if isinstance(value, str) else " ".join(value)
)
def test_a_command_is_one_that_the_program_takes(where: str, words: list[str]) -> None:
    """Names, options and the number of arguments; whether files exist is another matter."""
    program = _program(words)
    assert program is not None
    group, arguments = program
    command: click.Command = group
    context = click.Context(group, info_name=words[0])
    while arguments and isinstance(command, click.Group):
        found = command.get_command(context, arguments[0])
        assert found is not None, f"{where}: {command.name} has no command {arguments[0]!r}"
        command, arguments = found, arguments[1:]
        context = click.Context(command, parent=context, info_name=command.name)
    if isinstance(command, click.Group):
        return
    try:
        command.make_context(str(command.name), list(arguments), parent=context.parent)
    except click.NoSuchOption as error:
        pytest.fail(f"{where}: {error.message}")
    except click.MissingParameter as error:
        pytest.fail(f"{where}: {error.format_message()}")
    except click.UsageError as error:
        assert "nexpected extra argument" not in error.message, f"{where}: {error.message}"


def test_every_make_target_that_is_named_is_there() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M))
    named = {words[1] for _, words in commands() if words[0] == "make"}
    assert named and named <= targets


@pytest.mark.parametrize(("where", "body"), list(blocks("toml")), ids=lambda value: value if ":" in value else "")
def test_a_block_of_toml_is_toml_and_a_configuration_is_one(where: str, body: str) -> None:
    data: dict[str, Any] = tomllib.loads(body)
    if "bundle" in data:
        convert_strict(data, Config, where)


@pytest.mark.parametrize(("where", "body"), list(blocks("python")), ids=lambda value: value if ":" in value else "")
def test_a_block_of_python_is_python_and_what_it_imports_of_ours_is_there(where: str, body: str) -> None:
    tree = ast.parse(body, where)
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "edge_runtime":
            module = importlib.import_module(str(node.module))
            for alias in node.names:
                assert hasattr(module, alias.name), f"{where}: {node.module} has no {alias.name}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files_and_tests_that_are_named_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#\s]+)", text):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name}: {target} is not there"
    for file, name in re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?", text):
        assert (ROOT / file).is_file(), f"{page.name}: {file} is not there"
        assert not name or re.search(rf"def {name}\b", (ROOT / file).read_text(encoding="utf-8")), f"{file}: no {name}"
