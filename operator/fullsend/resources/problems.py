"""From a model's refusal to sentences that name the field as the user wrote it and say what to do.

Invariant: one reading finds every problem. A model whose field is unusable never gets to its rules across fields, so
these are judged again here on what is usable; what depends on the unusable field is left unsaid, not guessed.
"""

from __future__ import annotations

import difflib
import types
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Generic, TypeVar, Union, get_args, get_origin

from pydantic import TypeAdapter, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from fullsend.resources.base import PATTERNS, Fault, Model
from fullsend.resources.document import FieldPath

BARE_WORDS = "a bare yes, no, on, off, true or false is not text in YAML"

M_co = TypeVar("M_co", bound=Model, covariant=True)

FREE_FORM = frozenset({"variables", "affinity"})
"""Fields whose inside is the user's own: a null in there is a value, not a field left out."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One problem inside an object; ``path`` in the user's own names."""

    path: FieldPath
    what: str
    fix: str = ""


@dataclass(frozen=True, slots=True)
class Checked(Generic[M_co]):
    """``model`` is None where anything is wrong; ``partial`` then holds what is usable, unchecked otherwise."""

    model: M_co | None
    partial: M_co
    findings: tuple[Finding, ...] = ()


def check(kind: type[M_co], raw: Any, prefix: FieldPath = ()) -> Checked[M_co]:
    """The model, or everything that is wrong with ``raw``."""
    raw = without_nulls(raw)
    found = list(_unstorable(raw))
    try:
        model = kind.model_validate(raw, by_alias=True, by_name=False)
        return Checked(None if found else model, model, _placed(found, prefix))
    except ValidationError as error:
        found += _findings(kind, error)
        usable = _usable(kind, raw if isinstance(raw, dict) else {})
        if isinstance(raw, dict):
            told = {finding.path for finding in found}
            found += [Finding(fault.path, fault.what) for fault in usable.faults if fault.path not in told]
        return Checked(None, usable.model, _placed(found, prefix))


def _placed(found: Sequence[Finding], prefix: FieldPath) -> tuple[Finding, ...]:
    unique = {(item.path, item.what): Finding((*prefix, *item.path), item.what, item.fix) for item in found}
    return tuple(unique.values())


def _unstorable(raw: Any, path: FieldPath = ()) -> Iterator[Finding]:
    """Text that neither a mail nor PostgreSQL can hold: NUL, and halves of characters that JSON can write."""
    match raw:
        case str() if "\0" in raw:
            yield Finding(path, "holds a NUL character")
        case str() if not raw.isascii() and any("\ud800" <= character <= "\udfff" for character in raw):
            yield Finding(path, "holds half a character (a lone surrogate)")
        case dict():
            for key, value in raw.items():
                yield from _unstorable(key, path)
                yield from _unstorable(value, (*path, key))
        case list():
            for index, value in enumerate(raw):
                yield from _unstorable(value, (*path, index))


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
    close = difflib.get_close_matches(plain(word), by_plain, n=1, cutoff=0.6)
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
        if (item["type"] == "missing" and path in guessed) or item["type"] == "string_unicode":
            continue  # said already: as a misspelt field, as text that cannot be stored
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
                return "must be text", BARE_WORDS
            return f"must be text, not {_kind(value)}", "quote it" if isinstance(value, int | float) else ""
        case "bool_type":
            return f"must be true or false, not {_kind(value)}", ""
        case "int_type" | "int_from_float":
            return f"must be a whole number, not {value if isinstance(value, float) else _kind(value)}", ""
        case "enum":
            known = [str(member) for member in _enum_at(model, path)]
            if isinstance(value, str):
                return f"{value!r} is not one of {', '.join(known)}", meant(value, known)
            return f"must be one of {', '.join(known)}", BARE_WORDS if isinstance(value, bool) else ""
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


def _is_list(field: FieldInfo) -> bool:
    annotation = field.annotation
    return any(get_origin(part) is tuple for part in (annotation, *get_args(annotation)))


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


@dataclass(frozen=True, slots=True)
class _Usable(Generic[M_co]):
    """What of a refused value is usable, the rules that it breaks, and the fields nothing can be said of."""

    model: M_co
    faults: list[Fault]
    unsure: set[FieldPath]


def _usable(kind: type[M_co], raw: Mapping[str, Any]) -> _Usable[M_co]:
    known = _aliases(kind)
    unsure: set[FieldPath] = {(did_you_mean(key, known),) for key in raw if key not in known}
    faults: list[Fault] = []
    values: dict[str, Any] = {}
    for name, field in kind.model_fields.items():
        alias = field.alias or name
        values[name] = None if field.is_required() else field.get_default(call_default_factory=True)
        if alias not in raw:
            unsure |= {(alias,)} if field.is_required() else set()
            continue
        try:
            values[name] = _adapter(field).validate_python(raw[alias], by_alias=True, by_name=False)
        except ValidationError:
            inner = _submodel(field)
            if inner is not None and isinstance(raw[alias], dict) and not _is_list(field):
                part = _usable(inner, raw[alias])
                values[name] = part.model
                unsure |= {(alias, *path) for path in part.unsure}
                faults += [Fault((alias, *fault.path), fault.what) for fault in part.faults]
                continue
            unsure.add((alias,))
            if inner is not None and isinstance(raw[alias], list):
                for index, item in enumerate(raw[alias]):
                    part = _usable(inner, item if isinstance(item, dict) else {})
                    faults += [Fault((alias, index, *fault.path), fault.what) for fault in part.faults]
    model = kind.model_construct(**values)
    for fault in model.rules():
        needs = {fault.path, *((name,) for name in fault.about)}
        if not needs & unsure:
            faults.append(fault)
    return _Usable(model, faults, unsure)


def _adapter(field: FieldInfo) -> TypeAdapter[Any]:
    annotation: Any = field.annotation
    for constraint in field.metadata:
        annotation = Annotated[annotation, constraint]
    return TypeAdapter(annotation)
