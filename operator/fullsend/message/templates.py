"""jinja2, sandboxed, strict and limited; and the few things about a template the compiler must know.

The environment differs from jinja2's in four ways. Nothing is folded at compile time but the text between the tags,
so that ``{{ 'a' * 500000000 }}`` costs nothing until it is refused. What can make much out of little is checked
(``guards``). Other templates cannot be loaded. ``null`` prints as nothing, like an empty cell of a CSV file; an
undefined name is an error.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import CodeType
from typing import Any

from jinja2 import StrictUndefined, Template, nodes
from jinja2.compiler import CodeGenerator, Frame
from jinja2.filters import FILTERS
from jinja2.runtime import Context, markup_join, str_join
from jinja2.sandbox import ImmutableSandboxedEnvironment

from fullsend.errors import RenderError
from fullsend.message.guards import (
    MAX_TEXT,
    Budget,
    check_call,
    check_format,
    check_operator,
    limited_filters,
    limited_range,
)

Render = Callable[[Context], Iterator[str]]


class _Generator(CodeGenerator):
    """Code without constant folding, and with ``~`` going through the guards."""

    def _output_child_to_const(self, node: nodes.Expr, frame: Frame, finalize: Any) -> str:
        if not isinstance(node, nodes.TemplateData):
            raise nodes.Impossible
        return super()._output_child_to_const(node, frame, finalize)

    def visit_Concat(self, node: nodes.Concat, frame: Frame) -> None:  # noqa: N802 - jinja2's name
        self.write("environment.concatenate(context, (")
        for operand in node.nodes:
            self.visit(operand, frame)
            self.write(", ")
        self.write("))")


class LimitedEnvironment(ImmutableSandboxedEnvironment):
    """The environment of one kind of part: ``html`` escapes what it prints, the others do not."""

    code_generator_class = _Generator
    intercepted_binops = frozenset({"*", "**", "+", "%"})

    def __init__(self, budget: Budget, *, html: bool) -> None:
        super().__init__(
            autoescape=html,
            undefined=StrictUndefined,
            optimized=False,
            keep_trailing_newline=True,
            finalize=budget.printed,
            cache_size=0,
        )
        self.budget = budget
        self.macro_text = 0
        self.filters = limited_filters(FILTERS)
        self.filters["_counted"] = budget.counted
        self.globals["range"] = limited_range
        del self.globals["lipsum"]

    def _generate(self, source: nodes.Template, *args: Any, **kwargs: Any) -> str:
        for macro in source.find_all((nodes.Macro, nodes.CallBlock)):
            self.macro_text = max(self.macro_text, _static_length(macro))
        for loop in list(source.find_all(nodes.For)):
            length = nodes.Const(_static_length(loop), lineno=loop.lineno)
            loop.iter = nodes.Filter(loop.iter, "_counted", [length], [], None, None, lineno=loop.lineno)
        return super()._generate(source, *args, **kwargs)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        check_operator(operator, left, right)
        return super().call_binop(context, operator, left, right)

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N805 - jinja2's names
        __self.budget.step(__self.macro_text)
        args = check_call(__obj, args, kwargs)
        return super().call(__context, __obj, *args, **kwargs)

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        """``str.format``, sandboxed by jinja2, checked here."""
        wrapped = super().wrap_str_format(value)
        if wrapped is None:
            return None

        def checked(*args: Any, **kwargs: Any) -> str:
            check_format(value.__self__, [*args, *kwargs.values()], "{")
            return wrapped(*args, **kwargs)

        return checked

    def concatenate(self, context: Context, values: tuple[Any, ...]) -> str:
        """What ``a ~ b`` prints."""
        text = markup_join(values) if context.eval_ctx.autoescape else str_join(values)
        if len(text) > MAX_TEXT:
            raise RenderError(f"~ would make a value of more than {MAX_TEXT:,} characters")
        return text


def _static_length(node: nodes.Node) -> int:
    return sum(len(data.data) for data in node.find_all(nodes.TemplateData))


class Part:
    """One compiled template: ``subject``, ``text``, ``html``, a header, a link."""

    def __init__(self, name: str, source: str, environment: LimitedEnvironment) -> None:
        self.name = name
        self._environment = environment
        self._template = Template.from_code(environment, environment.compile(source, name), dict(environment.globals))
        self._render: Render = self._template.root_render_func
        self.blocks = self._template.blocks

    def chunks(self, values: dict[str, Any]) -> Iterator[str]:
        """The rendered text in pieces. ``values`` holds the globals too and is shared, not copied."""
        return self._render(Context(self._environment, values, self.name, self.blocks))

    def text(self, values: dict[str, Any]) -> str:
        """The whole rendered text. Raises RenderError."""
        try:
            return "".join(self.chunks(values))
        except Exception as error:
            raise self.failure(error) from error

    def failure(self, error: Exception) -> RenderError:
        """What went wrong, with the part and the template's line."""
        namespace = self._render.__globals__
        line = 0
        frame = error.__traceback__
        while frame is not None:
            if frame.tb_frame.f_globals is namespace:
                line = self._template.get_corresponding_lineno(frame.tb_lineno)
            frame = frame.tb_next
        what = str(error) or type(error).__name__
        if isinstance(error, MemoryError | RecursionError):
            what = "it needs too much memory" if isinstance(error, MemoryError) else "it is nested too deeply"
        return RenderError(f"{self.name}, line {line}: {what}" if line else f"{self.name}: {what}")

    def static_texts(self) -> set[str]:
        """Every string constant of the compiled code, and so every chunk that is the same for everybody."""
        functions = [self._render, *self.blocks.values()]
        found: set[str] = set()
        codes: list[CodeType] = [function.__code__ for function in functions]
        while codes:
            for constant in codes.pop().co_consts:
                if isinstance(constant, str):
                    found.add(constant)
                elif isinstance(constant, CodeType):
                    codes.append(constant)
        return found


def static_text(tree: nodes.Template) -> str | None:
    """What a template without expressions and statements renders to; None where it has some."""
    pieces: list[str] = []
    for output in tree.body:
        if not isinstance(output, nodes.Output):
            return None
        for node in output.nodes:
            if not isinstance(node, nodes.TemplateData):
                return None
            pieces.append(node.data)
    return "".join(pieces)
