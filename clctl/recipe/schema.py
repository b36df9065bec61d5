"""The JSON Schema of a recipe, for editors that complete and check YAML as it is typed.

Made from the sections themselves, so that it cannot fall behind them: what a `name` picks becomes
an alternative, and what a docstring says of a key becomes its description.
Differs: a schema knows types, ranges and names. What several values mean together (low <= high,
the views of a method) is left to `clctl validate`, and 2.0 passes for a whole number.
No word is used that draft 7 understands otherwise, as many editors know no later draft.
"""

import re
from inspect import cleandoc, getmro
from typing import Any

from pydantic.json_schema import GenerateJsonSchema, JsonSchemaMode, models_json_schema
from pydantic_core import core_schema

from clctl.recipe.plugins import config, known, summary
from clctl.recipe.section import Plugin, Section
from clctl.recipe.sections import Recipe

Json = dict[str, Any]

DIALECT = "https://json-schema.org/draft/2020-12/schema"
_READ: JsonSchemaMode = "validation"


def schema() -> Json:
    """The schema as JSON values. Each `Config` lives beside its code, so this loads torch."""
    packages = {
        key: mark.package
        for key, field in Recipe.model_fields.items()
        for mark in field.metadata
        if isinstance(mark, Plugin)
    }
    found = {key: {name: config(p, name) for name in known(p)} for key, p in packages.items()}
    models = [Recipe, *(model for each in found.values() for model in each.values())]
    refs, made = models_json_schema(
        [(model, _READ) for model in models], schema_generator=_Documented
    )
    defs: Json = made["$defs"]
    whole = defs.pop("Recipe")
    for key, each in found.items():
        files = known(packages[key])
        parts: list[Json] = []
        for name, model in each.items():
            part = defs[_place(refs[model, _READ])]
            part["description"] = summary(files[name])
            parts.append(part | refs[model, _READ])
        whole["properties"][key] |= _choice(parts)
    for key, part in whole["properties"].items():
        if "discriminator" in part:
            of = [defs[_place(ref)] | ref for ref in part["oneOf"]]
            whole["properties"][key] = _choice(of)
    return {"$schema": DIALECT, "title": "A recipe of clctl", **whole, "$defs": defs}


def _choice(parts: list[Json]) -> Json:
    """A section that is one of several, each given with its "$ref", as its `name` says.

    Not `oneOf`, with which a checker tells of a wrong key that no alternative fits.
    """
    names = [part["properties"]["name"] for part in parts]
    told = [{**n, "description": p["description"]} for n, p in zip(names, parts, strict=True)]
    return {
        "type": "object",
        "required": ["name"],
        "properties": {"name": {"anyOf": told}},
        "allOf": [
            {
                "if": {"properties": {"name": name}, "required": ["name"]},
                "then": {"$ref": part["$ref"]},
            }
            for name, part in zip(names, parts, strict=True)
        ],
    }


def _place(ref: Json) -> str:
    """The name in "$defs" that a reference means."""
    return str(ref["$ref"]).rpartition("/")[2]


class _Documented(GenerateJsonSchema):
    """Sections with what their docstrings say, without titles that repeat the keys."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        """None has a title."""
        return False

    def model_schema(self, schema: core_schema.ModelSchema) -> Json:
        """A section; one that is picked by its `name` must give it, whatever its default."""
        made, kind = super().model_schema(schema), schema["cls"]
        made.pop("title", None)
        if not issubclass(kind, Section):
            return made
        made.pop("description", None)
        about, said = _documented(kind)
        if about:
            made["description"] = about
        for key, words in said.items():
            made["properties"][key]["description"] = words
        required = [key for key in made.get("required", ()) if key != "name"]
        if "name" in kind.model_fields and kind is not Recipe:  # a recipe is named by its file
            made["properties"]["name"].pop("default", None)
            required.insert(0, "name")
        made.pop("required", None)
        return made | ({"required": required} if required else {})

    def tuple_schema(self, schema: core_schema.TupleSchema) -> Json:
        """A list of fixed length as one of items all alike, which both drafts write alike."""
        made = super().tuple_schema(schema)
        if "prefixItems" in made:
            first, *others = made.pop("prefixItems")
            assert all(other == first for other in others), "a list of unlike items"
            made["items"] = first
        return made


def _documented(kind: type[Section]) -> tuple[str, dict[str, str]]:
    """What the docstring says of a section, and of its keys in the form "key, other: words"."""
    key = "|".join(kind.model_fields)
    about, said = "", dict[str, str]()
    for owner in getmro(kind):
        if not issubclass(owner, Section) or owner is Section:
            continue
        for paragraph in cleandoc(owner.__doc__ or "").split("\n\n"):
            before, *rest = re.split(rf"(?<!\S)((?:{key})(?:, (?:{key}))*): ", paragraph)
            about = about or _line(before)
            for names, words in zip(rest[::2], rest[1::2], strict=True):
                for name in names.split(", "):
                    said.setdefault(name, _line(words))
    return about, said


def _line(text: str) -> str:
    """Words on one line, without the mark that parts them from the next."""
    return " ".join(text.split()).rstrip(";")
