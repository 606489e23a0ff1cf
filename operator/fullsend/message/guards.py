"""What a template may cost, and the counters that hold it to that.

A template is a program that somebody else wrote. The sandbox keeps it from reading what it must not; it does not
keep it from asking for ``'a' * 500000000``, ``10**10**10`` or ten thousand loops in ten thousand loops. So every
operation that can make much out of little (operators, string methods, filters, loops, calls) asks here first and is
refused with a RenderError that says which limit it met.

What remains is left to the memory limit of the process: a template that keeps many large values alive at once, each
below the limits, can still use some hundred megabytes. The planner meets that in a process with RLIMIT_AS
(``limits``).
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import wraps
from typing import Any

from fullsend.errors import RenderError

MAX_TEXT = 4_000_000
"""Characters in any one string a template makes; a message of that size is refused by most relays."""
MAX_OUTPUT = 10_000_000
"""Characters one message may print, counted where they are printed: in a macro or a ``{% set %}`` block too."""
MAX_ITEMS = 10_000
"""Items in a range or a list a template makes."""
MAX_STEPS = 200_000
"""Loop passes and calls in one message. A newsletter of a hundred articles takes some thousand."""
MAX_SECONDS = 2.0
"""CPU time for one message, from its sixteenth step; a usual one takes 50 microseconds. Not wall time: a process that
was frozen in the middle of a message must not give its recipient up."""
MAX_WIDTH = 10_000
"""Field widths, indents and precisions."""
MAX_BITS = 4_096
"""Bits in an integer."""

_WIDE_PERCENT = re.compile(r"%(?:\([^)]*\))?[-+ #0-9.]*(?:[0-9]{5}|\*)")
_WIDE_BRACES = re.compile(r"\{[^{}]*(?::[^{}]*[0-9]{5}|\{)")
_WIDTH = re.compile(r"[0-9]{1,4}")


class Budget:
    """What one message has used so far. Reset before each; one composer works on one message at a time."""

    __slots__ = ("deadline", "output", "steps")

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.steps = 0
        self.output = 0
        self.deadline = 0.0

    def step(self, text: int = 0) -> None:
        """One loop pass or call that puts out ``text`` characters of static text."""
        self.steps += 1
        self.print(text)
        if self.steps > MAX_STEPS:
            raise RenderError(f"more than {MAX_STEPS:,} loop passes and calls in one message")
        if not self.steps % 16:
            self.check_time()

    def print(self, length: int) -> None:
        self.output += length
        if self.output > MAX_OUTPUT:
            raise RenderError(f"more than {MAX_OUTPUT:,} characters in one message")

    def printed(self, value: Any) -> Any:
        """Whatever a template prints comes through here, before it is made text. ``null`` prints as nothing."""
        if type(value) is str:
            self.output += len(value)
            if self.output > MAX_OUTPUT:
                raise RenderError(f"more than {MAX_OUTPUT:,} characters in one message")
            return value
        if value is None:
            return ""
        if isinstance(value, str | bytes | dict | list | tuple):
            self.print(_size(value))
        return value

    def check_time(self) -> None:
        now = time.thread_time()
        if not self.deadline:
            self.deadline = now + MAX_SECONDS
        if now > self.deadline:
            raise RenderError(f"rendering takes more than {MAX_SECONDS:g} seconds of CPU time")

    def counted(self, items: Iterable[Any], text: int) -> Iterator[Any]:
        """The items, each charged as one loop pass."""
        step = self.step
        for item in items:
            step(text)
            yield item


def _too_long(what: str) -> RenderError:
    return RenderError(f"{what} would make a value of more than {MAX_TEXT:,} characters")


def limited_range(*args: int) -> range:
    """``range`` of at most MAX_ITEMS items."""
    numbers = range(*args)
    if len(numbers) > MAX_ITEMS:
        raise RenderError(f"range() of more than {MAX_ITEMS:,} items")
    return numbers


def check_operator(operator: str, left: Any, right: Any) -> None:
    """Refuse an operation whose result would be out of all proportion to its operands."""
    match operator:
        case "*":
            for sequence, count in ((left, right), (right, left)):
                if isinstance(sequence, str | bytes | list | tuple) and isinstance(count, int):
                    if _size(sequence) * count > MAX_TEXT:
                        raise _too_long("*")
                    if isinstance(sequence, list | tuple) and len(sequence) * count > MAX_ITEMS:
                        raise RenderError(f"* would make a list of more than {MAX_ITEMS:,} items")
            if isinstance(left, int) and isinstance(right, int) and left.bit_length() + right.bit_length() > MAX_BITS:
                raise RenderError("* would make a number of more than a thousand digits")
        case "**":
            if not (isinstance(left, int | float) and isinstance(right, int | float)):
                return
            if isinstance(left, float) or isinstance(right, float):
                return
            if left.bit_length() * abs(right) > MAX_BITS:
                raise RenderError("** would make a number of more than a thousand digits")
        case "+":
            if isinstance(left, str) and isinstance(right, str) and len(left) + len(right) > MAX_TEXT:
                raise _too_long("+")
            if (
                isinstance(left, list | tuple)
                and isinstance(right, list | tuple)
                and len(left) + len(right) > MAX_ITEMS
            ):
                raise RenderError(f"+ would make a list of more than {MAX_ITEMS:,} items")
        case "%":
            if isinstance(left, str):
                check_format(left, right if isinstance(right, tuple) else (right,), "%")


def check_format(pattern: str, values: Iterable[Any], mark: str) -> None:
    """Refuse format strings with huge widths, widths taken from values, or many copies of a long value."""
    if _WIDE_PERCENT.search(pattern) if mark == "%" else _WIDE_BRACES.search(pattern.replace("{{", "")):
        raise RenderError("a format width of more than four digits, or taken from a value")
    longest = max((_size(value) for value in values), default=0)
    widths = sum(map(int, _WIDTH.findall(pattern)))
    if len(pattern) + pattern.count(mark) * longest + widths > MAX_TEXT:
        raise _too_long("formatting")


def _size(value: Any, depth: int = 0) -> int:
    """About how many characters a value has when printed."""
    match value:
        case str() | bytes():
            return len(value)
        case dict() if depth < 8:
            return sum(_size(key, depth + 1) + _size(item, depth + 1) + 8 for key, item in value.items())
        case list() | tuple() if depth < 8:
            return sum(_size(item, depth + 1) + 8 for item in value)
        case _:
            return 32


def check_width(*values: Any) -> None:
    """Refuse numbers that ask for a huge amount of padding."""
    for value in values:
        if isinstance(value, int) and abs(value) > MAX_WIDTH:
            raise RenderError(f"a width of more than {MAX_WIDTH:,}")


def check_replace(text: str, old: str, new: str) -> None:
    copies = text.count(old) if old else len(text) + 1
    if len(text) + copies * (len(new) - len(old)) > MAX_TEXT:
        raise _too_long("replace")


def check_join(separator: str, items: list[Any]) -> None:
    if sum(map(_size, items)) + len(separator) * len(items) > MAX_TEXT:
        raise _too_long("join")


def _text_method(name: str, text: str, args: tuple[Any, ...]) -> tuple[Any, ...]:
    """The arguments of a string method, checked. Iterators are drawn into lists, as ``join`` would."""
    match name:
        case "center" | "ljust" | "rjust" | "zfill":
            check_width(*args)
        case "replace" if len(args) >= 2 and isinstance(args[0], str) and isinstance(args[1], str):
            check_replace(text, args[0], args[1])
        case "join" if args:
            items = list(args[0])
            check_join(text, items)
            return (items, *args[1:])
        case "encode" | "translate":
            raise RenderError(f"str.{name} is not available in templates")
    return args


def check_call(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, ...]:
    """The arguments for a call from a template, checked where the function can make much out of little."""
    owner = getattr(function, "__self__", None)
    name = getattr(function, "__name__", "")
    if isinstance(owner, str) and name == "expandtabs":
        size = next(iter([*args, *kwargs.values()]), 8)
        check_width(size)
        check_replace(owner, "\t", " " * size if isinstance(size, int) else "")
    elif isinstance(owner, str):
        return _text_method(name, owner, args)
    if isinstance(owner, int) and name == "to_bytes":
        raise RenderError("int.to_bytes is not available in templates")
    return args


def _check_filter(name: str, value: Any, extras: list[Any]) -> Any:
    """The value for a filter, checked against what the filter would make of it."""
    match name:
        case "replace" if len(extras) >= 2:
            check_replace(str(value), str(extras[0]), str(extras[1]))
        case "join":
            value = list(value)
            check_join(str(extras[0]) if extras else "", value)
        case "format":
            check_format(str(value), extras, "%")
        case "indent":
            check_width(*extras)
            width = max((len(extra) if isinstance(extra, str) else int(extra) for extra in extras), default=4)
            if len(text := str(value)) + (len(text.splitlines()) + 1) * width > MAX_TEXT:
                raise _too_long("indent")
        case "wordwrap":
            check_width(*extras)
            wrap = max((len(extra) for extra in extras if isinstance(extra, str)), default=1)
            if len(str(value)) * wrap > MAX_TEXT:
                raise _too_long("wordwrap")
        case _:
            check_width(*extras)
    return value


_CHECKED = (
    "batch",
    "center",
    "format",
    "indent",
    "join",
    "replace",
    "round",
    "slice",
    "tojson",
    "truncate",
    "wordwrap",
)


def limited_filters(filters: Mapping[str, Callable[..., Any]]) -> dict[str, Callable[..., Any]]:
    """jinja2's filters with a check before each that can multiply its input.

    ``random`` is left out: a message that is sent again must be the same message.
    """
    limited = {name: function for name, function in filters.items() if name != "random"}
    for name in _CHECKED:
        limited[name] = _checked(name, filters[name])
    return limited


def _checked(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    lead = 1 if hasattr(function, "jinja_pass_arg") else 0  # jinja2 hands such a filter its context first

    @wraps(function)
    def check_first(*args: Any, **kwargs: Any) -> Any:
        value = _check_filter(name, args[lead], [*args[lead + 1 :], *kwargs.values()])
        return function(*args[:lead], value, *args[lead + 1 :], **kwargs)

    return check_first
