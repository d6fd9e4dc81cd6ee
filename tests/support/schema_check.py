"""Documents against their JSON Schemas, each of which is checked itself once a session: that takes 80 ms."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

from jsonschema.exceptions import best_match
from jsonschema.protocols import Validator
from jsonschema.validators import validator_for


def validate(document: object, schema: dict[str, Any]) -> None:
    """Raises `jsonschema.ValidationError`, as `jsonschema.validate` does."""
    error = best_match(_validator(json.dumps(schema, sort_keys=True)).iter_errors(document))
    if error is not None:
        raise error


@cache
def _validator(schema: str) -> Validator:
    read = json.loads(schema)
    kind = validator_for(read)
    kind.check_schema(read)
    return kind(read)
