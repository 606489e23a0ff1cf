"""From a model's refusal to sentences that name the field as the user wrote it and say what to do.

Invariant: one reading finds every problem. A model whose field is unusable never gets to its rules across fields, so
these are judged again here on what is usable; what depends on the unusable field is left unsaid, not guessed.
"""

from __future__ import annotations

import difflib
import types
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import TypeAdapter, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from fullsend.resources import base
from fullsend.resources.base import Fault, Model
from fullsend.resources.documents import FieldPath

PATTERNS = {
    base.DURATION: "is not a duration such as 90s, 15m, 1h30m or 7d",
    base.PERCENT: "is not a percentage such as 5% or 0.3%",
    base.NAME: "is not a name: lower-case letters, digits, '-' and '.', beginning and ending with a letter or digit",
    base.LABEL: "is not a name: lower-case letters, digits and '-', beginning and ending with a letter or digit",
    base.DATA_KEY: "is not a key: letters, digits, '-', '_' and '.'",
    base.HOST: "is not a host name or an IP address",
    base.ADDRESS: "is not a mail address such as news@mail.example",
    base.LINE: "must be one line",
    base.QUANTITY: "is not a quantity such as 500m, 1 or 256Mi",
}
FREE_FORM = frozenset({"variables", "affinity"})
"""Fields whose inside is the user's own: a null in there is a value, not a field left out."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One problem inside an object; ``path`` in the user's own names."""

    path: FieldPath
    what: str
    fix: str = ""


def check(model: type[Model], raw: Any, prefix: FieldPath = ()) -> tuple[Model | None, list[Finding]]:
    """The model, or everything that is wrong with ``raw``."""
    raw = without_nulls(raw)
    try:
        return model.model_validate(raw, by_alias=True, by_name=False), []
    except ValidationError as error:
        findings = list(_findings(model, error))
        if isinstance(raw, Mapping):
            findings += [Finding(fault.path, fault.what) for fault in _hidden_rules(model, raw)]
        unique = {(finding.path, finding.what): finding for finding in findings}
        return None, [Finding((*prefix, *item.path), item.what, item.fix) for item in unique.values()]


def without_nulls(raw: Any) -> Any:
    """A null field is a field left out, as for the API server."""
    match raw:
        case dict():
            return {
                key: value if key in FREE_FORM else without_nulls(value)
                for key, value in raw.items()
                if value is not None
            }
        case list():
            return [without_nulls(item) for item in raw]
        case _:
            return raw


def path_text(path: FieldPath) -> str:
    """``spec.audiences[0].name``"""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def did_you_mean(word: str, known: Sequence[str]) -> str:
    """The known word that was probably meant, or ""."""

    def plain(text: str) -> str:
        return text.replace("_", "").replace("-", "").lower()

    by_plain = {plain(name): name for name in known}
    close = difflib.get_close_matches(plain(word), by_plain, n=1, cutoff=0.7)
    return by_plain[close[0]] if close else ""


def meant(word: str, known: Sequence[str]) -> str:
    """``did you mean X?``, or "" where nothing is near."""
    guess = did_you_mean(word, known)
    return f"did you mean {guess}?" if guess else ""


def _findings(model: type[Model], error: ValidationError) -> Iterator[Finding]:
    details = error.errors(include_url=False)
    guessed: set[FieldPath] = set()
    for item in details:
        if item["type"] == "extra_forbidden":
            path = item["loc"]
            guess = did_you_mean(str(path[-1]), _aliases(_model_at(model, path[:-1])))
            if guess:
                guessed.add((*path[:-1], guess))
    for item in details:
        path = tuple(part for part in item["loc"] if part != "[key]")
        if item["type"] == "missing" and path in guessed:
            continue
        yield Finding(path, *_sentence(model, item, path))


def _sentence(model: type[Model], item: ErrorDetails, path: FieldPath) -> tuple[str, str]:
    value = item["input"]
    context = item.get("ctx", {})
    match item["type"]:
        case "missing":
            return "is required", ""
        case "extra_forbidden":
            known = _aliases(_model_at(model, path[:-1]))
            elsewhere = _places(model, str(path[-1])) if not did_you_mean(str(path[-1]), known) else []
            fix = meant(str(path[-1]), known) or (f"it belongs to {elsewhere[0]}" if len(elsewhere) == 1 else "")
            return "is not a field here", fix or f"known here: {', '.join(known)}"
        case "string_type":
            if isinstance(value, bool):
                return "must be text", "a bare yes, no, on, off, true or false is not text in YAML: quote it"
            return f"must be text, not {_kind(value)}", "quote it" if isinstance(value, int | float) else ""
        case "bool_type":
            return f"must be true or false, not {_kind(value)}", ""
        case "int_type" | "int_from_float":
            return f"must be a whole number, not {_kind(value)}", ""
        case "enum":
            known = [str(member) for member in _enum_at(model, path)]
            if isinstance(value, str):
                return f"{value!r} is not one of {', '.join(known)}", meant(value, known)
            return f"must be one of {', '.join(known)}, not {_kind(value)}", ""
        case "string_pattern_mismatch":
            pattern = context["pattern"]
            shown = value if len(value) <= 60 else value[:57] + "..."
            return f"{shown!r} {PATTERNS.get(pattern) or f'does not match {pattern}'}", ""
        case "string_too_long":
            return f"is longer than {context['max_length']} characters", ""
        case "string_too_short" | "too_short":
            return "must not be empty", ""
        case "too_long":
            return f"holds {context['actual_length']} entries, at most {context['max_length']} are allowed", ""
        case "greater_than_equal":
            return f"must be at least {context['ge']}", ""
        case "less_than_equal":
            return f"must be at most {context['le']}", ""
        case "model_type" | "model_attributes_type":
            fields = _model_at(model, path).model_fields
            example = f"write {{{'address' if 'address' in fields else 'name'}: ...}}" if isinstance(value, str) else ""
            return f"must be an object, not {_kind(value)}", example if {"address", "name"} & set(fields) else ""
        case "tuple_type":
            return f"must be a list, not {_kind(value)}", "begin each entry with '-'"
        case "dict_type":
            return f"must be an object of names and values, not {_kind(value)}", ""
        case "timezone_aware":
            return "needs a time zone", "such as 2026-06-01T09:00:00Z"
        case kind if kind.startswith(("datetime", "time")):
            return "is not a time", "such as 2026-06-01T09:00:00Z"
        case _:
            return item["msg"], ""


def _kind(value: Any) -> str:
    match value:
        case None:
            return "nothing"
        case bool():
            return "true or false"
        case int() | float():
            return "a number"
        case str():
            return "text"
        case list() | tuple():
            return "a list"
        case _:
            return "an object"


def _aliases(model: type[Model]) -> list[str]:
    return [field.alias or name for name, field in model.model_fields.items()]


def _unwrap(annotation: Any) -> Iterator[Any]:
    """The classes an annotation is made of: through Annotated, unions, tuples and mappings."""
    origin = get_origin(annotation)
    if origin is Annotated:
        yield from _unwrap(get_args(annotation)[0])
    elif origin in (Union, types.UnionType, tuple):
        for part in get_args(annotation):
            yield from _unwrap(part)
    elif isinstance(annotation, type):
        yield annotation


def _field(model: type[Model], alias: str) -> FieldInfo | None:
    return next((field for name, field in model.model_fields.items() if (field.alias or name) == alias), None)


def _submodel(field: FieldInfo) -> type[Model] | None:
    found = (part for part in _unwrap(field.annotation) if isinstance(part, type) and issubclass(part, Model))
    return next(found, None)


def _model_at(model: type[Model], path: FieldPath) -> type[Model]:
    for part in path:
        if isinstance(part, str) and (field := _field(model, part)) and (sub := _submodel(field)):
            model = sub
    return model


def _enum_at(model: type[Model], path: FieldPath) -> Iterator[Any]:
    names = [part for part in path if isinstance(part, str)]
    field = _field(_model_at(model, path[: path.index(names[-1])]), names[-1])
    for part in _unwrap(field.annotation) if field else ():
        if hasattr(part, "__members__"):
            yield from part.__members__.values()


def _places(model: type[Model], alias: str, prefix: str = "") -> list[str]:
    """Where in this kind a field of this name exists."""
    found: list[str] = []
    for name, field in model.model_fields.items():
        sub = _submodel(field)
        if sub is not None:
            here = f"{prefix}{field.alias or name}"
            found += [here] if _field(sub, alias) else []
            found += _places(sub, alias, f"{here}.")
    return found


def _hidden_rules(model: type[Model], raw: Mapping[str, Any]) -> Iterator[Fault]:
    """Rules across fields that do not hold, judged on those fields of ``raw`` that are usable by themselves."""
    known = _aliases(model)
    unsure = {did_you_mean(key, known) for key in raw if key not in known}
    values: dict[str, Any] = {}
    for name, field in model.model_fields.items():
        alias = field.alias or name
        values[name] = None
        if alias not in raw:
            if field.is_required():
                unsure.add(alias)
            else:
                values[name] = field.get_default(call_default_factory=True)
            continue
        try:
            adapter = TypeAdapter[Any](Annotated[field.annotation, field])  # type: ignore[arg-type] # built at run time
            values[name] = adapter.validate_python(raw[alias], by_alias=True, by_name=False)
        except ValidationError:
            unsure.add(alias)
            yield from _inner_rules(field, alias, raw[alias])
    for fault in model.model_construct(**values).rules():
        if not unsure & (set(fault.about) or set(map(str, fault.path[:1]))):
            yield fault


def _inner_rules(field: FieldInfo, alias: str, raw: Any) -> Iterator[Fault]:
    sub = _submodel(field)
    if sub is None:
        return
    items = [((alias,), raw)] if isinstance(raw, Mapping) else []
    if isinstance(raw, list):
        items = [((alias, index), item) for index, item in enumerate(raw)]  # type: ignore[misc]
    for path, item in items:
        if isinstance(item, Mapping):
            for fault in _hidden_rules(sub, item):
                yield Fault((*path, *fault.path), fault.what)
