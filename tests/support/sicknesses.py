"""Models made sick, one case per sickness that doctor knows."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from schema_check import validate

from conftest import CHECKPOINT, ROOT
from nextn.diagnosis import Diagnosis
from nextn.verbs.doctor import DoctorResult

SCHEMA = json.loads((ROOT / "src" / "nextn" / "schemas" / "doctor.json").read_text())
EH = "blk.4.nextn.eh_proj.weight"
KEY = "qwen35.nextn_predict_layers"


def ids(found: Diagnosis) -> list[str]:
    return [finding.id for finding in found.problems]


def checked(done: DoctorResult) -> DoctorResult:
    validate(done.to_json(), SCHEMA)
    return done


@dataclass(frozen=True)
class Case:
    """A model made sick, and what is found."""

    found: str
    how: dict[str, Any]
    refused: str | None = None  # what llama.cpp says when it loads the model
    needs: str | None = None  # of what --fix needs
    same: bool = True  # mended, its tensors are those of the healthy one
    wanted: dict[str, Any] = field(default_factory=dict)  # of the mended header


def nextn_rows(name: str) -> int:
    from opened import open_donor

    tensor = open_donor(CHECKPOINT).find(name.partition("blk.4.")[2])
    assert tensor is not None
    return tensor.ne[1]


CASES = {
    "key missing": Case("block-without-key", {"drop": [KEY]}, "wrong number of tensors", wanted={KEY: 1}),
    "key zero": Case("block-without-key", {"put": [(KEY, "u32", 0)]}, "wrong number of tensors", wanted={KEY: 1}),
    "foreign namespace": Case(
        "wrong-namespace", {"drop": [KEY], "put": [("qwen3.nextn_predict_layers", "u32", 1)]},
        "wrong number of tensors", wanted={KEY: 1, "qwen3.nextn_predict_layers": None},
    ),
    "no namespace": Case(
        "wrong-namespace", {"drop": [KEY], "put": [("nextn_predict_layers", "u32", 1)]},
        "wrong number of tensors", wanted={KEY: 1},
    ),
    "count of the trunk": Case(
        "wrong-block-count", {"put": [("qwen35.block_count", "u32", 4)]}, "", wanted={"qwen35.block_count": 5}
    ),
    "count too large": Case(
        "wrong-block-count", {"put": [("qwen35.block_count", "u32", 7)]}, "", wanted={"qwen35.block_count": 5}
    ),
    "two blocks promised": Case("wrong-number-of-blocks", {"put": [(KEY, "u32", 2)]}, "", wanted={KEY: 1}),
    "wrong index": Case("block-at-wrong-index", {"rename": {"blk.4.": "blk.9."}}, ""),
    "key of another type": Case(
        "wrong-key-type", {"put": [(KEY, "i32", 1)]}, "wrong type", wanted={KEY: 1}
    ),
    "short array": Case(
        "wrong-array-length",
        {"put": [("qwen35.attention.recurrent_layers", "[bool]", [True, True, True, False])]},
        "wrong array length",
    ),
    "a head for ik": Case(
        "head-for-ik-only", {"add": [("output_extra.weight", (32, 2), 0, bytes(256))]}, "wrong number of tensors"
    ),
    "lost tensors": Case(
        "block-not-whole", {"lose": lambda name: name in (EH, "blk.4.attn_q.weight")}, "", needs="donor", same=False
    ),
}  # fmt: skip
