"""Makes src/nextn/schemas/*.json from the documents' definitions beside them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec

from nextn.schemas import KINDS, document_type
from nextn.schemas.attach import AttachDocument
from nextn.schemas.detach import DetachDocument
from nextn.schemas.extract import ExtractDocument
from nextn.schemas.manifest import ManifestDocument
from nextn.schemas.recipe import RecipeDocument

FOLDER = Path(__file__).resolve().parent.parent / "src" / "nextn" / "schemas"
DRAFT = "https://json-schema.org/draft/2020-12/schema"


def schemas() -> dict[str, dict[str, Any]]:
    """File name -> schema."""
    made = {kind: _schema(document_type(kind), f"nextn {kind} --json") for kind in KINDS}
    made["result"] = _schema(AttachDocument | DetachDocument | ExtractDocument, "nextn attach, detach, extract: --json")
    made["error"]["title"] = "any command with --json, when it fails"
    made["tune"]["title"] += ", and NAME.tune.json"
    made["recipe"] = _schema(RecipeDocument, "NAME.recipe.json, which nextn assemble --pick writes beside the model")
    made["manifest"] = _schema(ManifestDocument, "nextn.json, the manifest of a published folder")
    return {f"{name}.json": schema for name, schema in made.items()}


def _schema(kind: Any, title: str) -> dict[str, Any]:
    found = msgspec.json.schema(kind)
    parts = {name: _printed(part) for name, part in found.pop("$defs").items()}
    if "$ref" in found:
        found = parts.pop(found["$ref"].rpartition("/")[2])
    more = {"$defs": parts} if parts else {}
    return {"$schema": DRAFT, **found, "title": title, **more}


def _printed(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema of what is printed: a field with a default is printed too."""
    fields = schema.get("properties", {})
    names = [name for name in fields if name in schema["required"] or "default" in fields[name]]
    for field in fields.values():
        if field.get("default") is not None and not isinstance(field["default"], list):
            field["enum"] = field.get("enum", [field["default"]])
        field.pop("default", None)
    return {**schema, "required": names}


def encoded(schema: dict[str, Any]) -> str:
    """The text of a schema file."""
    return json.dumps(schema, indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    for name, schema in schemas().items():
        (FOLDER / name).write_text(encoded(schema), encoding="utf-8")
        print(FOLDER / name)
