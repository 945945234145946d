"""Small changes to a module's source, each of which some test should notice. Pure functions.

The usual operators (Offutt and others 1996: relational, logical, arithmetic, constant replacement) and those that find
what a test never looks at: a statement left out, a function that does nothing, a value that is not returned.
Annotations, docstrings and messages of errors and logs are left alone: what they say is no behaviour.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterable, Iterator
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

COMPARISONS: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
}
ARITHMETIC: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Add,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
}
NAMES = {"min": "max", "max": "min", "any": "all", "all": "any"}
LARGE = 100
SILENT = {"debug", "info", "warning", "error", "exception", "log"}
"""Methods of loggers."""


@dataclass(frozen=True)
class Mutant:
    """A changed module."""

    line: int
    change: str
    """In words: what was there and what is there now."""
    source: str


def mutants(source: str) -> list[Mutant]:
    """Every mutant of a module, in the order of its lines; all compile, and no two are the same."""
    tree = ast.parse(source)
    found: dict[str, Mutant] = {}
    for number, node in enumerate(_places(tree)):
        for variant in range(len(_changes(node))):
            changed = deepcopy(tree)
            twin = next(one for index, one in enumerate(_places(changed)) if index == number)
            before = ast.unparse(twin)
            _changes(twin)[variant]()
            after = ast.unparse(twin)
            if before == after:
                continue
            text = ast.unparse(ast.fix_missing_locations(changed)) + "\n"
            change = f"{_short(before)}  ->  {_short(after)}"
            found.setdefault(text, Mutant(getattr(node, "lineno", 1), change, text))
    return sorted(found.values(), key=lambda one: one.line)


def _short(text: str) -> str:
    lines = text.splitlines()
    return lines[0][:90] + (f" ... {lines[-1].strip()[:60]}" if len(lines) > 1 else "")


def _places(tree: ast.AST) -> Iterator[ast.AST]:
    """Every node whose behaviour may be changed, in a fixed order."""
    for name, value in ast.iter_fields(tree):
        if name in {"annotation", "returns", "decorator_list", "type_comment"}:
            continue
        for node in value if isinstance(value, list) else [value]:
            if not isinstance(node, ast.AST) or _says_nothing(node):
                continue
            yield node
            yield from _places(node)


def _says_nothing(node: ast.AST) -> bool:
    """Docstrings, texts, imports, and what only words an error or a log line."""
    if isinstance(node, ast.Import | ast.ImportFrom | ast.JoinedStr | ast.Raise):
        return True
    if isinstance(node, ast.keyword) and node.arg == "frozen":  # the type checker notices who writes
        return True
    if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
        return True
    if not isinstance(node, ast.Expr):
        return False
    if isinstance(node.value, ast.Constant):
        return True
    call = node.value.func if isinstance(node.value, ast.Call) else None
    return (
        isinstance(call, ast.Attribute)
        and call.attr in SILENT
        and isinstance(call.value, ast.Name)
        and call.value.id == "log"
    )


Change = Callable[[], object]
"""Does one thing to a node in place."""


def _changes(node: ast.AST) -> list[Change]:
    """All that may be done to `node`."""
    changes = [change for kind, of in _BY_KIND.items() if isinstance(node, kind) for change in of(node)]
    if (isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)) or _sets_attribute(node):
        changes.append(lambda: _become_pass(node))
    return changes


def _compare(node: ast.Compare) -> Iterator[Change]:
    for index, operator in enumerate(node.ops):
        if (other := COMPARISONS.get(type(operator))) is not None:
            yield lambda index=index, other=other: node.ops.__setitem__(index, other())  # type: ignore[misc]


def _arithmetic(node: ast.BinOp | ast.AugAssign) -> Iterator[Change]:
    if (other := ARITHMETIC.get(type(node.op))) is not None:
        yield lambda: setattr(node, "op", other())


def _unary(node: ast.UnaryOp) -> Iterator[Change]:
    if isinstance(node.op, ast.Not):
        yield lambda: setattr(node, "operand", ast.UnaryOp(ast.Not(), node.operand))
    elif isinstance(node.op, ast.USub):
        yield lambda: setattr(node, "op", ast.UAdd())


def _constant(node: ast.Constant) -> Iterator[Change]:
    if isinstance(node.value, bool):
        yield lambda: setattr(node, "value", not node.value)
    elif isinstance(node.value, int | float):
        # One more of a great number is no other behaviour; twice as much is.
        more = node.value * 2 if abs(node.value) >= LARGE else node.value + 1
        yield lambda: setattr(node, "value", more)


def _name(node: ast.Name) -> Iterator[Change]:
    if node.id in NAMES:
        yield lambda: setattr(node, "id", NAMES[node.id])


def _return(node: ast.Return) -> Iterator[Change]:
    if node.value is not None and not (isinstance(node.value, ast.Constant) and node.value.value is None):
        yield lambda: setattr(node, "value", ast.Constant(None))


def _function(node: ast.FunctionDef) -> Iterator[Change]:
    if not all(_says_nothing(one) or isinstance(one, ast.Pass | ast.Return) for one in node.body):
        yield lambda: setattr(node, "body", [ast.Pass()])


_BY_KIND: dict[Any, Callable[[Any], Iterable[Change]]] = {
    ast.Compare: _compare,
    ast.BoolOp: lambda node: [lambda: setattr(node, "op", ast.Or() if isinstance(node.op, ast.And) else ast.And())],
    ast.BinOp | ast.AugAssign: _arithmetic,
    ast.UnaryOp: _unary,
    ast.Constant: _constant,
    ast.Name: _name,
    ast.If | ast.While | ast.IfExp: lambda node: [lambda: setattr(node, "test", ast.UnaryOp(ast.Not(), node.test))],
    ast.Return: _return,
    ast.FunctionDef: _function,
}
"""Kind of node to what may be done to it."""


def _sets_attribute(node: ast.AST) -> bool:
    """Assignments to attributes and items: left out, the old value stands."""
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AugAssign) else []
    return bool(targets) and all(isinstance(one, ast.Attribute | ast.Subscript) for one in targets)


def _become_pass(node: ast.AST) -> None:
    node.__class__ = ast.Pass  # type: ignore[assignment]
    for name in list(vars(node)):
        if name not in {"lineno", "col_offset", "end_lineno", "end_col_offset"}:
            delattr(node, name)
