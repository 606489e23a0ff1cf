"""Somebody else's template, in a process that can be lost: bounded memory, bounded time, JSON in and out.

The guards in ``guards`` refuse what is known to be expensive; this is for what is not known. The child limits itself
before it reads anything, runs one function of this package and answers with JSON. Whatever becomes of it (no memory,
no time, a crash of a C library), the caller gets the same InvalidInput that a syntax error would give.

Only the child imports what compiles and composes: the planner never runs a template, and starts the sooner.
"""

from __future__ import annotations

import base64
import json
import resource
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fullsend.errors import InvalidInput, Problem, RenderError
from fullsend.message.compiled import CompiledMessage, Recipient
from fullsend.message.source import MessageSource, source_from_json, source_to_json

MEMORY = 768 * 1024 * 1024
"""Address space. Python with jinja2 and lxml takes 190 MB of it, a 20 MB attachment some 200 MB."""
SECONDS = 30.0


def _compile(payload: Any) -> Any:
    from fullsend.message.compile import compile_message

    return base64.b64encode(compile_message(source_from_json(payload)).to_bytes()).decode("ascii")


def _check(payload: Any) -> Any:
    from fullsend.message.compose import Composer

    composer = Composer(CompiledMessage.from_bytes(base64.b64decode(payload["compiled"])))
    failures: list[list[Any]] = []
    for index, (address, token, variables) in enumerate(payload["recipients"]):
        try:
            composer.compose(Recipient(address, token, variables))
        except RenderError as error:
            failures.append([index, str(error)])
    return failures


FUNCTIONS: Mapping[str, Callable[[Any], Any]] = {"compile": _compile, "check": _check}


def run_limited(function: str, payload: Any, *, memory_bytes: int = MEMORY, seconds: float = SECONDS) -> Any:
    """Run one of FUNCTIONS. Raises InvalidInput: the function's own, or one that says which limit was met."""
    command = [sys.executable, "-P", "-m", "fullsend.message.limits", function, str(memory_bytes), str(seconds)]
    with subprocess.Popen(  # noqa: S603 - our own interpreter and module
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env={}
    ) as child:
        try:
            answer, _ = child.communicate(json.dumps(payload).encode("ascii"), timeout=seconds)
        except subprocess.TimeoutExpired:
            child.kill()
            raise _beyond(f"takes longer than {seconds:g} seconds") from None
    try:
        result = json.loads(answer)
    except ValueError:
        raise _beyond(f"needs more than {memory_bytes // 2**20} MB of memory, or more time than it may take") from None
    if "problems" in result:
        raise InvalidInput([Problem(*problem) for problem in result["problems"]])
    return result["value"]


def _beyond(what: str) -> InvalidInput:
    return InvalidInput([Problem("message", f"the template {what}", "look for loops and large values in it")])


def compile_limited(source: MessageSource) -> CompiledMessage:
    """``compile_message`` in its own process."""
    return CompiledMessage.from_bytes(base64.b64decode(run_limited("compile", source_to_json(source))))


@dataclass(frozen=True, slots=True)
class RenderFailure:
    """Recipient ``index`` of those that were checked has no message, and why."""

    index: int
    why: str


def check_limited(compiled: CompiledMessage, recipients: Sequence[Recipient]) -> list[RenderFailure]:
    """Compose for each recipient in a process of its own; the failures. Raises InvalidInput where a limit was met."""
    payload = {
        "compiled": base64.b64encode(compiled.to_bytes()).decode("ascii"),
        "recipients": [[recipient.address, recipient.token, dict(recipient.variables)] for recipient in recipients],
    }
    return [RenderFailure(index, why) for index, why in run_limited("check", payload)]


def _main(function: str, memory_bytes: int, seconds: float) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_CPU, (int(seconds) + 1, int(seconds) + 1))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    result: dict[str, Any]
    try:
        result = {"value": FUNCTIONS[function](json.load(sys.stdin))}
    except InvalidInput as error:
        result = {"problems": [[problem.where, problem.what, problem.fix] for problem in error.problems]}
    except MemoryError:
        what = f"the template needs more than {memory_bytes // 2**20} MB of memory"
        result = {"problems": [["message", what, "look for loops and large values in it"]]}
    sys.stdout.write(json.dumps(result))


if __name__ == "__main__":
    _main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]))
