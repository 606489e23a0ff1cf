"""What every declared kind is made of: strict models, the few scalar types, and rules across fields.

Invariant: a manifest means the same here and at the API server. Names are camelCase and unknown ones are refused,
scalars are never coerced (``"5"`` is no integer), an optional field has one type. So the models can generate a
structural CRD, and a manifest that passes here is not refused there for its shape.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Annotated, Any, Self

from pydantic import (
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    Strict,
    StringConstraints,
    ValidationError,
    WithJsonSchema,
    model_validator,
)
from pydantic.alias_generators import to_camel
from pydantic_core import InitErrorDetails, PydanticCustomError

API_VERSION = "fullsend.dev/v1alpha1"

PATTERNS: dict[str, str] = {}
"""What text that does not match is told, by pattern."""


def matching(regex: str, says: str, longest: int) -> StringConstraints:
    """Text of at most ``longest`` characters that matches; one that does not is told what ``says`` says."""
    PATTERNS[regex] = says
    return StringConstraints(pattern=regex, max_length=longest)


DURATION = r"^([0-9]{1,5}[smhd]){1,4}$"
PERCENT = r"^(100(\.0{1,3})?|[0-9]{1,2}(\.[0-9]{1,3})?)%$"
NAME = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$"  # RFC 1123 subdomain
LABEL = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"  # RFC 1123 label
DATA_KEY = r"^[-._a-zA-Z0-9]+$"
HOST = r"^[A-Za-z0-9]([-.A-Za-z0-9]*[A-Za-z0-9])?$|^[0-9A-Fa-f:]*:[0-9A-Fa-f:.]*$"
ADDRESS = r"^[^\s@<>,;:\"]+@[^\s@<>,;:\"]+\.[^\s@<>,;:\".]+$"
QUANTITY = r"^([0-9]+|[0-9]*\.[0-9]+)(m|k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei)?$"

_ENDS = "beginning and ending with a letter or digit"
Duration = Annotated[str, matching(DURATION, "is not a duration such as 90s, 15m, 1h30m or 7d", 32)]
Percent = Annotated[str, matching(PERCENT, "is not a percentage such as 5% or 0.3%", 8)]
Name = Annotated[str, matching(NAME, f"is not a name: lower-case letters, digits, '-' and '.', {_ENDS}", 253)]
Label = Annotated[str, matching(LABEL, f"is not a name: lower-case letters, digits and '-', {_ENDS}", 63)]
DataKey = Annotated[str, matching(DATA_KEY, "is not a key: letters, digits, '-', '_' and '.'", 253)]
Host = Annotated[str, matching(HOST, "is not a host name or an IP address", 253)]
Address = Annotated[str, matching(ADDRESS, "is not a mail address such as news@mail.example", 254)]  # RFC 5321
Line = Annotated[str, matching(r"^[^\r\n\x00]*$", "must be one line", 998)]  # RFC 5322
Bool = Annotated[bool, Strict()]
Int = Annotated[int, Strict()]


def _only_text(value: Any) -> Any:
    if isinstance(value, str | datetime):
        return value
    raise PydanticCustomError("time_type", "is not a time")


Time = Annotated[AwareDatetime, BeforeValidator(_only_text), WithJsonSchema({"type": "string", "format": "date-time"})]


def _quantity_text(value: Any) -> Any:
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


Quantity = Annotated[
    str,
    BeforeValidator(_quantity_text),
    matching(QUANTITY, "is not a quantity such as 500m, 1 or 256Mi", 32),
    WithJsonSchema(
        {
            "x-kubernetes-int-or-string": True,
            "anyOf": [{"type": "integer"}, {"type": "string"}],
            "pattern": QUANTITY,
            "maxLength": 32,
        }
    ),
]
"""A Kubernetes quantity (``500m``, ``256Mi``, ``1``), kept as text."""

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def parse_duration(text: str) -> timedelta:
    """``90s``, ``15m``, ``1h30m``, ``7d``. Raises ValueError for anything else."""
    if not re.fullmatch(DURATION, text):
        raise ValueError(f"{text!r} is not a duration such as 90s, 15m, 1h30m or 7d")
    return timedelta(seconds=sum(int(count) * _UNITS[unit] for count, unit in re.findall(r"(\d+)([smhd])", text)))


def parse_percent(text: str) -> float:
    """``5%`` is 0.05, ``0.3%`` is 0.003. Raises ValueError for anything else."""
    if not re.fullmatch(PERCENT, text):
        raise ValueError(f"{text!r} is not a percentage such as 5% or 0.3%")
    return float(text[:-1]) / 100


@dataclass(frozen=True, slots=True)
class Fault:
    """A rule across fields that does not hold. ``about`` are the fields (camelCase, of the same model) that it
    needs to be judged: where one of them is unusable in itself, the fault would be noise."""

    path: tuple[str | int, ...]
    what: str
    about: tuple[str, ...] = ()


class Model(BaseModel):
    """The base of everything a user writes. Subclasses name their rules across fields in ``rules``."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        populate_by_name=True,
        alias_generator=lambda name: to_camel(name.rstrip("_")),
        hide_input_in_errors=True,
    )

    def rules(self) -> Iterator[Fault]:
        """Every rule that does not hold. May be asked of a partial model, whose unusable required fields are None."""
        return iter(())

    @model_validator(mode="after")
    def _hold_rules(self) -> Self:
        faults = list(self.rules())
        if faults:
            raise ValidationError.from_exception_data(
                type(self).__name__,
                [
                    InitErrorDetails(
                        type=PydanticCustomError("rule", "{what}", {"what": fault.what, "about": fault.about}),
                        loc=fault.path,
                        input=None,
                    )
                    for fault in faults
                ],
                hide_input=True,
            )
        return self

    def exactly_one(self, *names: str) -> Iterator[Fault]:
        """The rule that one of these optional fields, and only one, is given."""
        aliases = {name: type(self).model_fields[name].alias or name for name in names}
        given = [alias for name, alias in aliases.items() if getattr(self, name) is not None]
        if len(given) != 1:
            found = " and ".join(given) if given else "none"
            yield Fault(
                (), f"needs exactly one of {', '.join(aliases.values())}; found {found}", tuple(aliases.values())
            )


class NameRef(Model):
    """The name of another object in the same namespace."""

    name: Name = Field(description="Name of the object, in the same namespace.")


class SecretRef(Model):
    """The name of a Secret in the same namespace, of the `fullsend.dev/...` type the field asks for."""

    name: Name = Field(description="Name of the Secret, in the same namespace.")


class ConfigMapKeyRef(Model):
    """One key of a ConfigMap in the same namespace."""

    name: Name = Field(description="Name of the ConfigMap, in the same namespace.")
    key: DataKey = Field(description="Key in its `data` or `binaryData`.")


class Rate(Model):
    """At most so many messages in any period of this length. Several rates hold together."""

    messages: Int = Field(ge=1, le=10_000_000, description="Messages allowed in one period.")
    per: Duration = Field(description="Length of the period, such as `1s`, `1m` or `1h`. Longer than zero.")

    def rules(self) -> Iterator[Fault]:
        yield from positive(self, "per")

    @property
    def seconds(self) -> float:
        return parse_duration(self.per).total_seconds()


def positive(model: Model, *names: str) -> Iterator[Fault]:
    """The rule that these durations are longer than zero."""
    for name in names:
        value = getattr(model, name)
        if value is not None and not parse_duration(value):
            alias = type(model).model_fields[name].alias or name
            yield Fault((alias,), "must be longer than zero", (alias,))
