"""What can be found out about a template before anybody's message is built from it.

All problems of all parts are found at once, each with its part and line: syntax, filters and tests that do not
exist, tags that load other templates. And the names the template needs: *required* unless each use is guarded by
``is defined``, ``is undefined`` or ``default``, in which case they are optional. The analysis never calls a name
optional that is used unguarded, but for names the template itself has set; rendering is strict in any case.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches

from jinja2 import TemplateSyntaxError, nodes
from jinja2.meta import find_undeclared_variables

from fullsend.errors import Problem
from fullsend.message.templates import LimitedEnvironment

_DEFINED = ("defined", "undefined")
_LOADING = (nodes.Include, nodes.Import, nodes.FromImport, nodes.Extends)
MAX_SOURCE = 2_000_000
"""Characters in one template; mail readers clip far smaller messages (Gmail at 102 kB)."""


@dataclass(frozen=True, slots=True)
class Checked:
    """A template that parses, and the names it takes from outside."""

    tree: nodes.Template
    required: frozenset[str]
    optional: frozenset[str]

    @property
    def names(self) -> frozenset[str]:
        return self.required | self.optional


def check(where: str, source: str, environment: LimitedEnvironment) -> tuple[Checked | None, list[Problem]]:
    """Parse and look through one template. ``where`` names the field (``message.html``)."""
    if len(source) > MAX_SOURCE:
        return None, [Problem(where, f"the template has more than {MAX_SOURCE:,} characters")]
    try:
        tree = environment.parse(source)
    except TemplateSyntaxError as error:
        return None, [Problem(f"{where}, line {error.lineno}", error.message or "syntax error")]
    except RecursionError:
        return None, [Problem(where, "the template is nested too deeply")]
    except ValueError as error:  # a number with too many digits
        return None, [Problem(where, str(error))]
    problems = [*_unknown(where, tree, environment), *_loading(where, tree)]
    if problems:
        return None, problems
    try:
        undeclared = find_undeclared_variables(tree) - environment.globals.keys()
        environment.compile(tree)
    except (TemplateSyntaxError, SyntaxError, RecursionError) as error:
        # Python's compiler has limits of its own: 20 nested blocks, for one.
        line = f", line {error.lineno}" if isinstance(error, TemplateSyntaxError) else ""
        return None, [Problem(f"{where}{line}", f"the template cannot be compiled: {error}")]
    tree = environment.parse(source)
    unguarded = _unguarded(tree)
    return Checked(tree, frozenset(undeclared & unguarded), frozenset(undeclared - unguarded)), []


def _unknown(where: str, tree: nodes.Template, environment: LimitedEnvironment) -> Iterable[Problem]:
    for node in tree.find_all((nodes.Filter, nodes.Test)):
        kind, known = ("filter", environment.filters) if isinstance(node, nodes.Filter) else ("test", environment.tests)
        name: str = node.name
        if name not in known or name.startswith("_"):
            close = get_close_matches(name, [other for other in known if other[0].isalpha()], 1)
            fix = f"did you mean {close[0]!r}?" if close else ""
            yield Problem(f"{where}, line {node.lineno}", f"there is no {kind} {name!r}", fix)


def _loading(where: str, tree: nodes.Template) -> Iterable[Problem]:
    for node in tree.find_all(_LOADING):
        tag = {"FromImport": "from"}.get(type(node).__name__, type(node).__name__.lower())
        yield Problem(
            f"{where}, line {node.lineno}",
            f"{{% {tag} %}} cannot be used",
            "a message is one template; write it in full",
        )


def _unguarded(tree: nodes.Template) -> set[str]:
    """The names that are read somewhere without a guard and that the template has not set before."""
    found: set[str] = set()
    assigned: set[str] = set()

    def walk(node: nodes.Node, guarded: frozenset[str]) -> None:
        match node:
            case nodes.Name(ctx="load"):
                if node.name not in guarded and node.name not in assigned:
                    found.add(node.name)
            case nodes.Test(name="defined" | "undefined", node=nodes.Name()):
                pass
            case nodes.Filter(name="default" | "d", node=nodes.Name()):
                for argument in [*node.args, *node.kwargs]:
                    walk(argument, guarded)
            case nodes.If() | nodes.CondExpr() | nodes.And() | nodes.Or():
                inner = guarded | _tested(node)
                for child in node.iter_child_nodes():
                    walk(child, inner)
            case nodes.Assign(target=nodes.Name(name=name)):
                walk(node.node, guarded)
                assigned.add(name)
            case nodes.AssignBlock(target=nodes.Name(name=name)):
                for child in node.body:
                    walk(child, guarded)
                assigned.add(name)
            case _:
                for child in node.iter_child_nodes():
                    walk(child, guarded)

    walk(tree, frozenset())
    return found


def _tested(node: nodes.If | nodes.CondExpr | nodes.And | nodes.Or) -> frozenset[str]:
    """The names whose being defined the condition asks for."""
    condition = node.test if isinstance(node, nodes.If | nodes.CondExpr) else node
    tests = [condition, *condition.find_all(nodes.Test)]
    return frozenset(
        test.node.name
        for test in tests
        if isinstance(test, nodes.Test) and test.name in _DEFINED and isinstance(test.node, nodes.Name)
    )
