"""The models as structural OpenAPI schemas, the form a CustomResourceDefinition takes.

Invariant: what the API server checks is what the models check, less what neither a structural schema nor CEL can say.
A field that may be left out has its own type, never "or null"; nothing is a reference. A default that is written out
is one that says something: an empty list, text or part is the same as none.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

from fullsend.resources.cel import RULES

_UNSTRUCTURAL = frozenset({"title", "propertyNames", "$defs"})


class _Structural(GenerateJsonSchema):
    def nullable_schema(self, schema: core_schema.NullableSchema) -> JsonSchemaValue:
        return self.generate_inner(schema["schema"])

    def model_schema(self, schema: core_schema.ModelSchema) -> JsonSchemaValue:
        made = super().model_schema(schema)
        if rules := RULES.get(schema["cls"]):
            made["x-kubernetes-validations"] = [rule.to_json() for rule in rules]
        return made

    def default_schema(self, schema: core_schema.WithDefaultSchema) -> JsonSchemaValue:
        """A part made of defaults is there when it is left out, so that its defaults are seen."""
        made = super().default_schema(schema)
        factory = schema.get("default_factory")
        if isinstance(factory, type) and issubclass(factory, BaseModel):
            made = {**made, "default": {}}
        return made


def structural_schema(model: type[BaseModel]) -> dict[str, Any]:
    """The schema of one model, whole: references inlined, only words that a structural schema knows."""
    schema = model.model_json_schema(by_alias=True, schema_generator=_Structural)
    definitions = schema.get("$defs", {})
    plain = _plain(schema, definitions)
    assert isinstance(plain, dict)
    return plain


def _plain(schema: Any, definitions: dict[str, Any]) -> Any:
    if isinstance(schema, list):
        return [_plain(item, definitions) for item in schema]
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        target = definitions[schema["$ref"].rsplit("/", 1)[1]]
        schema = {**target, **{key: value for key, value in schema.items() if key != "$ref"}}
    plain: dict[str, Any] = {}
    for key, value in schema.items():
        if key in _UNSTRUCTURAL or (key == "default" and value in (None, "", [])):
            continue
        if key == "additionalProperties" and not isinstance(value, dict):
            continue  # unknown fields are pruned or refused by the API server itself
        if key == "patternProperties":  # names are checked by the model; their values alike
            (plain["additionalProperties"],) = (_plain(field, definitions) for field in value.values())
        elif key == "properties":
            plain[key] = {name: _plain(field, definitions) for name, field in value.items()}
        elif key == "description":
            plain[key] = " ".join(value.split())
        elif key in ("default", "x-kubernetes-validations"):
            plain[key] = value
        else:
            plain[key] = _plain(value, definitions)
    if plain.get("default") == {}:  # written out: the API server judges a default by the rules before it fills it in
        fields = plain.get("properties", {})
        plain["default"] = {name: field["default"] for name, field in fields.items() if "default" in field}
        if not plain["default"]:
            del plain["default"]
    return plain
