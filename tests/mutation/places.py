"""Where a module can be broken, and how: one small change of one expression or statement each.

Left out by rule, as no test need notice: what only people or type checkers read (docstrings,
messages, logging, `__repr__`, annotations, protocols, assertions), and shortcuts that a comment
beginning with "The usual" names as such.
"""

from __future__ import annotations

import ast
import copy
from collections.abc import Callable
from typing import NamedTuple

_OPPOSITES: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
    ast.Lt: ast.GtE,
    ast.GtE: ast.Lt,
    ast.Gt: ast.LtE,
    ast.LtE: ast.Gt,
}
_NEIGHBOURS: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
}
_OPERATORS: dict[type[ast.operator], ast.operator] = {
    ast.Add: ast.Sub(),
    ast.Sub: ast.Add(),
    ast.Mult: ast.FloorDiv(),
    ast.Div: ast.Mult(),
    ast.FloorDiv: ast.Mult(),
    ast.BitOr: ast.BitAnd(),
    ast.BitAnd: ast.BitOr(),
}
_NAMES = {"min": "max", "max": "min", "any": "all", "all": "any"}

# Of two arguments of these the order means nothing.
_WITHOUT_ORDER = {"min", "max"}

# Calls of which nothing is to be checked.
_UNWATCHED_OWNERS = {"log", "logging", "warnings"}
_UNWATCHED_CALLS = {"cast", "TypeVar", "NewType", "print"}
_UNWATCHED_FUNCTIONS = {"__repr__", "__init_subclass__"}
_UNWATCHED_NAMES = {"__all__", "__slots__", "log"}


class Mutant(NamedTuple):
    """`begin` and `end` are places in the module's bytes; `line` is the first that changes."""

    path: str
    line: int
    kind: str
    begin: int
    end: int
    new: str

    def apply(self, source: bytes) -> bytes:
        """The module with it."""
        return source[: self.begin] + self.new.encode() + source[self.end :]


def mutants(path: str, source: bytes) -> list[Mutant]:
    """All mutants of a module, by place."""
    finder = _Finder(path, source)
    finder.visit(ast.parse(source))
    return sorted(finder.found, key=lambda one: (one.begin, one.end, one.new))


class _Finder(ast.NodeVisitor):
    def __init__(self, path: str, source: bytes) -> None:
        self.found: list[Mutant] = []
        self._path = path
        self._source = source
        lines = source.splitlines(keepends=True)
        self._starts = [0]
        for line in lines:
            self._starts.append(self._starts[-1] + len(line))
        self._lines = [line.strip() for line in lines]

    # What is left out

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        if node.name in _UNWATCHED_FUNCTIONS or any(map(_is_abstract, node.decorator_list)):
            return
        for default in [*node.args.defaults, *filter(None, node.args.kw_defaults)]:
            self.visit(default)
        self._visit_body(node.body)

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        if not any("Protocol" in ast.unparse(base) for base in node.bases):
            self._visit_body(node.body)

    def visit_Module(self, node: ast.Module) -> None:
        self._visit_body(node.body)

    def _visit_body(self, body: list[ast.stmt]) -> None:
        for statement in body:
            is_text = isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
            if not is_text:
                self.visit(statement)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        is_type = ast.unparse(node.annotation).endswith("TypeAlias")
        if node.value is not None and not is_type:
            self._remove(node, "assignment removed")
            self.visit(node.value)

    def visit_Assert(self, node: ast.Assert) -> None:
        """Told to type checkers."""

    def visit_JoinedStr(self, node: ast.JoinedStr) -> None:
        """A message, mostly."""

    # Statements

    def visit_If(self, node: ast.If) -> None:
        if "TYPE_CHECKING" in ast.unparse(node.test):
            return
        if self._is_shortcut(node) or self._is_shortcut(node.body[0]):
            return
        self._condition(node.test)
        self.generic_visit(node)

    def visit_While(self, node: ast.While) -> None:
        if not isinstance(node.test, ast.Constant):
            self._condition(node.test)
        self.generic_visit(node)

    def visit_IfExp(self, node: ast.IfExp) -> None:
        self._change(node, "branches swapped", _swap_branches)
        self.generic_visit(node)

    def visit_With(self, node: ast.With) -> None:
        if any("lock" in ast.unparse(item.context_expr) for item in node.items):
            end = self._end(node.items[-1].context_expr)
            self._add(node, "lock removed", self._begin(node), end, "if True")
        self.generic_visit(node)

    def visit_ExceptHandler(self, node: ast.ExceptHandler) -> None:
        if not all(isinstance(each, ast.Pass) or _is_word(each) for each in node.body):
            begin, end = self._begin(node.body[0]), self._end(node.body[-1])
            self._add(node.body[0], "except branch emptied", begin, end, "pass")
        self.generic_visit(node)

    def visit_Expr(self, node: ast.Expr) -> None:
        call = node.value
        if isinstance(call, ast.Call) and not _is_unwatched(call):
            self._remove(node, "call removed")
        self.generic_visit(node)

    def visit_Assign(self, node: ast.Assign) -> None:
        names = {target.id for target in node.targets if isinstance(target, ast.Name)}
        if names & _UNWATCHED_NAMES:
            return
        if not names:  # without a local variable nothing runs at all
            self._remove(node, "assignment removed")
        self.visit(node.value)

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        self._remove(node, "assignment removed")
        self.generic_visit(node)

    def visit_Delete(self, node: ast.Delete) -> None:
        self._remove(node, "deletion removed")

    def visit_Raise(self, node: ast.Raise) -> None:
        self._remove(node, "raise removed")
        self.generic_visit(node)

    def visit_Break(self, node: ast.Break) -> None:
        self._add(node, "break removed", self._begin(node), self._end(node), "pass")

    def visit_Continue(self, node: ast.Continue) -> None:
        self._add(node, "continue removed", self._begin(node), self._end(node), "pass")

    def visit_Return(self, node: ast.Return) -> None:
        value = node.value
        if value is None or (isinstance(value, ast.Constant) and value.value is None):
            return
        if isinstance(value, ast.Constant) and value.value is False:
            self.visit(value)  # None is as false
            return
        self._add(value, "return value", self._begin(value), self._end(value), "None")
        self.visit(value)

    # Expressions

    def visit_Compare(self, node: ast.Compare) -> None:
        for kind, table in (("comparison flipped", _OPPOSITES), ("boundary moved", _NEIGHBOURS)):
            for place, operator in enumerate(node.ops):
                if other := table.get(type(operator)):
                    self._change(node, kind, _with_operator(place, other()))
        self.generic_visit(node)

    def visit_BoolOp(self, node: ast.BoolOp) -> None:
        self._change(node, "and/or swapped", _swap_and_or)
        self.generic_visit(node)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> None:
        if isinstance(node.op, ast.Not):
            self._add(node, "not removed", *self._span(node), f"({ast.unparse(node.operand)})")
        self.generic_visit(node)

    def visit_BinOp(self, node: ast.BinOp) -> None:
        is_text = any(
            isinstance(each, (ast.JoinedStr, ast.Constant))
            and not isinstance(getattr(each, "value", ""), (int, float))
            for each in (node.left, node.right)
        )
        if not is_text and (other := _OPERATORS.get(type(node.op))):
            self._change(node, "operator changed", _with_op(other))
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        if _is_unwatched(node):
            return
        if isinstance(node.func, ast.Name) and (other := _NAMES.get(node.func.id)):
            self._add(node, f"{node.func.id} made {other}", *self._span(node.func), other)
        has_order = ast.unparse(node.func) not in _WITHOUT_ORDER
        pair = node.args[:2]
        if has_order and len(pair) == 2 and not any(isinstance(each, ast.Starred) for each in pair):
            self._change(node, "arguments swapped", _swap_arguments)
        self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> None:
        value = node.value
        if isinstance(value, bool):
            self._add(node, "constant", *self._span(node), str(not value))
        elif isinstance(value, (int, float)):
            for other in (value + 1, value - 1):
                self._add(node, "constant", *self._span(node), f"({other})")
        elif isinstance(value, str) and value and " " not in value:
            self._add(node, "constant", *self._span(node), repr(f"{value}x"))
        elif isinstance(value, bytes) and value:
            self._add(node, "constant", *self._span(node), repr(value + b"x"))

    def _is_shortcut(self, statement: ast.stmt) -> bool:
        line = statement.lineno - 2
        while line > 0 and self._lines[line - 1].startswith(b"#"):
            line -= 1
        return self._lines[line].startswith(b"# The usual")

    # How it is noted

    def _condition(self, test: ast.expr) -> None:
        if not isinstance(test, (ast.Compare, ast.UnaryOp)):
            self._add(test, "condition negated", *self._span(test), f"(not ({ast.unparse(test)}))")

    def _change(self, node: ast.expr, kind: str, change: Callable[[ast.expr], None]) -> None:
        changed = copy.deepcopy(node)
        change(changed)
        new = ast.unparse(changed)
        if new != ast.unparse(node):
            self._add(node, kind, *self._span(node), f"({new})")

    def _remove(self, node: ast.stmt, kind: str) -> None:
        self._add(node, kind, *self._span(node), "pass")

    def _add(self, node: ast.AST, kind: str, begin: int, end: int, new: str) -> None:
        line: int = node.lineno  # type: ignore[attr-defined]
        self.found.append(Mutant(self._path, line, kind, begin, end, new))

    def _span(self, node: ast.expr | ast.stmt) -> tuple[int, int]:
        return self._begin(node), self._end(node)

    def _begin(self, node: ast.expr | ast.stmt) -> int:
        return self._starts[node.lineno - 1] + node.col_offset

    def _end(self, node: ast.expr | ast.stmt) -> int:
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        return self._starts[node.end_lineno - 1] + node.end_col_offset


def _is_abstract(decorator: ast.expr) -> bool:
    return ast.unparse(decorator).endswith(("abstractmethod", "overload"))


def _is_word(statement: ast.stmt) -> bool:
    call = statement.value if isinstance(statement, ast.Expr) else None
    return isinstance(call, ast.Call) and _is_unwatched(call)


def _is_unwatched(call: ast.Call) -> bool:
    function = call.func
    if isinstance(function, ast.Name):
        return function.id in _UNWATCHED_CALLS
    owner = getattr(function, "value", None)
    return isinstance(owner, ast.Name) and owner.id in _UNWATCHED_OWNERS


def _with_operator(place: int, operator: ast.cmpop) -> Callable[[ast.expr], None]:
    def change(node: ast.expr) -> None:
        assert isinstance(node, ast.Compare)
        node.ops[place] = operator

    return change


def _with_op(operator: ast.operator) -> Callable[[ast.expr], None]:
    def change(node: ast.expr) -> None:
        assert isinstance(node, ast.BinOp)
        node.op = operator

    return change


def _swap_and_or(node: ast.expr) -> None:
    assert isinstance(node, ast.BoolOp)
    node.op = ast.And() if isinstance(node.op, ast.Or) else ast.Or()


def _swap_branches(node: ast.expr) -> None:
    assert isinstance(node, ast.IfExp)
    node.body, node.orelse = node.orelse, node.body


def _swap_arguments(node: ast.expr) -> None:
    assert isinstance(node, ast.Call)
    node.args[:2] = reversed(node.args[:2])
