"""Inspection: the shape of a model, every problem and hint with a file that has it, and the JSON."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ggufmaker
import pytest
from ggufmaker import (
    KV,
    Tensor,
    block_tensors,
    f32,
    make,
    root_tensors,
    trunk_tensors,
    write_set,
)

from conftest import DATA, TinyModels
from nextn.errors import FormatError, NextnError
from nextn.inspection.model import Inspection, inspect


def arch_kvs(n_layer: int, nextn: int | None = None, **more: Any) -> list[KV]:
    return [*ggufmaker.arch_kvs(n_layer, nextn, **more), ("tokenizer.ggml.model", "str", "gpt2")]


def whole_block(layer: int) -> list[Tensor]:
    """A block with the norm that published ones have, and loaders can do without."""
    return [*block_tensors(layer), f32(f"blk.{layer}.nextn.shared_head_norm.weight", 8)]


TRUNK = [*root_tensors(), *trunk_tensors(2)]
BUNDLED = [*TRUNK, *whole_block(2)]
SIDECAR = [*root_tensors(), *whole_block(2)]


def look(
    folder: Path, kvs: Sequence[KV], tensors: Sequence[Tensor], name: str = "M.gguf", **options: Sequence[int]
) -> Inspection:
    (folder / name).write_bytes(make(kvs, tensors, **options).whole)
    return inspect(folder / name)


def problem(found: Inspection) -> str:
    """The only problem."""
    assert len(found.problems) == 1, found.problems
    return found.problems[0]


# -- shapes --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "n_layer", "n_nextn", "tensors"),
    [
        ("trunk-only", 2, None, TRUNK),
        ("trunk-only", 2, 0, TRUNK),
        ("bundled", 3, 1, BUNDLED),
        ("sidecar", 3, 1, SIDECAR),
        ("donor", 3, 1, whole_block(2)),
    ],
)
def test_shapes(shape: str, n_layer: int, n_nextn: int | None, tensors: list[Tensor], tmp_path: Path) -> None:
    kvs = [pair for pair in arch_kvs(n_layer, n_nextn) if shape != "donor" or not pair[0].startswith("tokenizer.")]
    found = look(tmp_path, kvs, tensors, "mtp-M.gguf" if shape == "sidecar" else "M.gguf")
    assert found.shape == shape
    assert (found.architecture, found.n_layer_trunk, found.n_layer_nextn) == ("qwen35", 2, int(shape != "trunk-only"))
    assert found.block_bytes == (0 if shape == "trunk-only" else 15 * 8 * 4)
    assert found.types == {"f32": sum(len(data) for *_, data in tensors)}
    hints = ["this model has no MTP block; models of 'qwen35' are published with one: nextn attach"]
    assert found.problems == ()
    assert [hint.partition(" /")[0] for hint in found.hints] == (hints if shape == "trunk-only" else [])
    assert set(found.runs_on) == {"llama.cpp", "ik_llama.cpp"}


def test_two_blocks(tmp_path: Path) -> None:
    found = look(tmp_path, arch_kvs(4, 2), [*BUNDLED, *whole_block(3)])
    assert (found.n_layer_trunk, found.n_layer_nextn) == (2, 2)
    assert problem(found) == "the model has 2 MTP blocks, but the graph of 'qwen35' takes 1."
    assert found.block_bytes == 2 * 15 * 8 * 4


def test_a_set_whose_last_shard_is_the_block(tmp_path: Path) -> None:
    paths = write_set(tmp_path, "M", [(arch_kvs(3, 1), TRUNK), ([], whole_block(2))])
    for path in (*paths, tmp_path):
        found = inspect(path)
        assert (found.shape, found.problems) == ("bundled", ())
        assert found.to_json()["n_files"] == 2


def test_json(tmp_path: Path) -> None:
    kvs = [*arch_kvs(3, 1), ("general.name", "str", "M")]
    kvs += [("nextn.donor", "str", "d"), ("nextn.tool_version", "str", "9")]
    data = json.loads(json.dumps(look(tmp_path, kvs, BUNDLED, version=2).to_json()))
    assert data["version"] == 1
    assert data["architecture"] == "qwen35"
    assert (data["n_layer_trunk"], data["n_layer_nextn"]) == (2, 1)
    assert data["shape"] == "bundled"
    assert data["block_bytes"] == 480
    assert data["problems"] == []
    assert data["path"] == str(tmp_path / "M.gguf")
    assert (data["name"], data["n_vocab"], data["gguf_version"], data["alignment"]) == ("M", 3, 2, 32)
    assert (data["n_files"], data["n_tensors"]) == (1, len(BUNDLED))
    assert data["size_bytes"] == (tmp_path / "M.gguf").stat().st_size
    assert data["provenance"] == {"donor": "d", "tool_version": "9"}


def test_json_of_a_model_with_strange_names(tmp_path: Path) -> None:
    arch = b"\xff\n"
    kvs: list[KV] = [("general.architecture", "str", arch), ("general.name", "str", b"\xfe")]
    data = look(tmp_path, kvs, [(b"\xff.weight", (1,), 0, bytes(4))]).to_json()
    text = json.dumps(data)
    assert text.isascii()
    assert json.loads(text)["name"].encode("utf-8", "surrogateescape") == b"\xfe"
    assert (data["provenance"], data["n_vocab"]) == (None, None)


def test_a_vocabulary_is_only_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import nextn.gguf.kv as kv

    decode = kv._decode_items
    seen: list[int] = []

    def watched(buffer, pos, item_type, n_items):
        seen.append(n_items)
        return decode(buffer, pos, item_type, n_items)

    monkeypatch.setattr(kv, "_decode_items", watched)
    kvs = [pair for pair in arch_kvs(3, 1) if pair[0] != "tokenizer.ggml.tokens"]
    kvs.append(("tokenizer.ggml.tokens", "[str]", ["t"] * 5000))
    found = look(tmp_path, kvs, BUNDLED)
    assert found.to_json()["n_vocab"] == 5000
    assert seen == []


# -- problems ------------------------------------------------------------------------------------------------


def test_a_promise_without_a_block(tmp_path: Path) -> None:
    found = look(tmp_path, arch_kvs(3, 1), TRUNK)
    assert (found.shape, found.n_layer_trunk, found.n_layer_nextn) == ("trunk-only", 2, 0)
    assert problem(found).startswith("'qwen35.nextn_predict_layers' promises 1 MTP block, but none is present")
    assert [finding.id for finding in found.findings] == ["key-without-block"]


@pytest.mark.parametrize("n_nextn", [None, 0])
def test_a_block_without_a_promise(n_nextn: int | None, tmp_path: Path) -> None:
    text = problem(look(tmp_path, arch_kvs(3, n_nextn), BUNDLED))
    assert text == "the file has an MTP block (layer 2), but 'qwen35.nextn_predict_layers' is missing or 0."


def test_fewer_blocks_than_promised(tmp_path: Path) -> None:
    found = look(tmp_path, arch_kvs(4, 2), BUNDLED)
    assert found.problems == (
        "'qwen35.block_count' is 4, but the file has 2 trunk layers and 1 MTP block: it must be 3.",
        "'qwen35.nextn_predict_layers' is 2, but the file has 1 MTP block.",
    )


def test_a_count_without_the_block(tmp_path: Path) -> None:
    text = problem(look(tmp_path, arch_kvs(2, 1), BUNDLED))
    assert text == "'qwen35.block_count' is 2, but the file has 2 trunk layers and 1 MTP block: it must be 3."


def test_lost_trunk_layers(tmp_path: Path) -> None:
    some = [tensor for tensor in trunk_tensors(5) if ".1." not in str(tensor[0]) and ".3." not in str(tensor[0])]
    text = problem(look(tmp_path, arch_kvs(5), [*root_tensors(), *some]))
    assert text == "2 trunk layers have no tensors (the first is 1): the trunk is incomplete."


@pytest.mark.parametrize("n_layer", [10**6, 2**32 - 1, 2**63])
def test_an_absurd_count_of_layers(n_layer: int, tmp_path: Path) -> None:
    """It is said, in no time and without a list of that length."""
    kvs = [pair for pair in arch_kvs(2) if pair[0] != "qwen35.block_count"]
    found = look(tmp_path, [*kvs, ("qwen35.block_count", "u64", n_layer)], TRUNK)
    words = f"'qwen35.block_count' is {n_layer:,}, but the file has 2 layers: the trunk is incomplete."
    assert found.problems[0] == words


def test_an_absurd_layer_number(tmp_path: Path) -> None:
    found = look(tmp_path, arch_kvs(3, 1), [*TRUNK, *whole_block(10**12)])
    assert (found.n_layer_trunk, found.shape) == (2, "bundled")
    assert [finding.id for finding in found.findings] == ["block-at-wrong-index"]


def test_a_layer_beyond_the_count(tmp_path: Path) -> None:
    text = problem(look(tmp_path, arch_kvs(1), TRUNK))
    assert text == "'qwen35.block_count' is 1, and the file has 2 layers."


def test_a_block_that_is_not_whole(tmp_path: Path) -> None:
    some = [tensor for tensor in BUNDLED if "attn_q" not in str(tensor[0])]
    text = problem(look(tmp_path, arch_kvs(3, 1), some))
    assert text.startswith("the MTP block in layer 2 lacks 2 of its tensors ('attn_q.weight', 'attn_q_norm.weight')")


def test_a_sidecar_without_its_norm(tmp_path: Path) -> None:
    some = [tensor for tensor in SIDECAR if tensor[0] != "output_norm.weight"]
    text = problem(look(tmp_path, arch_kvs(3, 1), some, "mtp-M.gguf"))
    assert text == "the sidecar has no tensor 'output_norm.weight', and engines do not use the target's."


def test_a_sidecar_for_forks(tmp_path: Path) -> None:
    kvs = [*arch_kvs(3, 1), ("qwen35.nextn_shared_target_tensors", "bool", True)]
    text = problem(look(tmp_path, kvs, SIDECAR, "mtp-M.gguf"))
    assert "it is meant to share the target's embeddings and head, which only forks of llama.cpp do" in text


@pytest.mark.parametrize("key", ["attention.head_count_kv", "feed_forward_length", "attention.recurrent_layers"])
@pytest.mark.parametrize(("n", "good"), [(3, True), (2, False), (4, False)])
def test_arrays_of_the_wrong_length(key: str, n: int, good: bool, tmp_path: Path) -> None:
    found = look(tmp_path, [*arch_kvs(3, 1), (f"qwen35.{key}", "[u32]", [0] * n)], BUNDLED)
    if good:
        assert found.problems == ()
    else:
        assert problem(found) == f"'qwen35.{key}' has {n} entries, but the model has 3 layers, MTP blocks included."


@pytest.mark.parametrize(
    ("offsets", "first"),
    [
        ([0, 64, 96], "'b' starts at byte 64 of the data section instead of 32"),
        ([32, 0, 64], "'a' starts at byte 32 of the data section instead of 0"),
        ([0, 0, 64], "'b' starts at byte 0 of the data section instead of 32"),
    ],
)
def test_holes_reordered_and_overlapping_data(offsets: list[int], first: str, tmp_path: Path) -> None:
    tensors = [f32(name, 4) for name in "abc"]
    (tmp_path / "M.gguf").write_bytes(make(arch_kvs(0), tensors, offsets=offsets).whole + bytes(64))
    text = problem(inspect(tmp_path / "M.gguf"))
    assert first in text
    assert text.endswith("there is a gap, or the data is in a different order.")


def test_unknown_types_are_no_holes(tmp_path: Path) -> None:
    tensors: list[Tensor] = [f32("a", 4), ("b", (3,), 9999, bytes(100)), f32("c", 4), ("d", (3,), 9999, bytes(40))]
    found = look(tmp_path, arch_kvs(0), tensors)
    assert found.problems == ()
    assert found.types == {"type 9999": 128 + 64, "f32": 32}


@pytest.mark.parametrize("name", ["M-mtp-Q8_0.gguf", "mmproj-M.gguf", "M.imatrix.gguf", "mtp-M.gguf"])
def test_main_models_that_discovery_passes_over(name: str, tmp_path: Path) -> None:
    text = problem(look(tmp_path, arch_kvs(2), TRUNK, name))
    assert text.startswith("the file name contains '")
    assert text.endswith("which to llama.cpp marks an auxiliary file.")


def test_long_tensor_names(tmp_path: Path) -> None:
    assert look(tmp_path, arch_kvs(2), [*TRUNK, f32("x" * 63, 1)]).problems == ()
    text = problem(look(tmp_path, arch_kvs(2), [*TRUNK, f32("x" * 62 + "ü", 1)]))
    assert text == f"the tensor name '{'x' * 40}...' has more than 63 bytes."


def test_a_truncated_file_is_one_problem(tmp_path: Path) -> None:
    path = tmp_path / "M.gguf"
    made = make(arch_kvs(3, 1), BUNDLED)
    path.write_bytes(made.whole[: len(made.header) + 100])
    found = inspect(path)
    text = problem(found)
    assert text.startswith(f"the file ends at byte {len(made.header) + 100:,} of {len(made.whole):,}: the download")
    assert found.shape == "bundled"


def test_problems_are_single_lines(tmp_path: Path) -> None:
    found = look(tmp_path, arch_kvs(2), [*TRUNK, f32("x\n\x1b[2J" * 12, 1)])
    assert "\n" not in problem(found)
    assert "\x1b" not in problem(found)


# -- hints, sidecars, engines --------------------------------------------------------------------------------


def test_a_sidecar_with_another_name(tmp_path: Path) -> None:
    found = look(tmp_path, arch_kvs(3, 1), SIDECAR, "M-draft.gguf")
    assert problem(found) == "the file name of this sidecar does not contain 'mtp-'."


def test_sidecars_beside_a_trunk(tiny_models: TinyModels, tmp_path: Path) -> None:
    """Those whose block an engine drafts with, whatever else lies there."""
    (tmp_path / "mtp-M.gguf").symlink_to(tiny_models.sidecar)
    look(tmp_path, arch_kvs(3, 1, arch="qwen3next"), SIDECAR, "mtp-other-arch.gguf")
    look(tmp_path, arch_kvs(3, 1, hidden=16), SIDECAR, "mtp-other-size.gguf")
    look(tmp_path, arch_kvs(2), TRUNK, "mtp-no-block.gguf")
    (tmp_path / "mtp-damaged.gguf").write_bytes(b"GGUF")
    (tmp_path / "mtp-dangling.gguf").symlink_to("nowhere")
    (tmp_path / "mtp-folder.gguf").mkdir()
    os.mkfifo(tmp_path / "mtp-pipe.gguf")
    (tmp_path / "M.gguf").symlink_to(tiny_models.trunk)
    found = inspect(tmp_path / "M.gguf")
    assert found.sidecars == (tmp_path / "mtp-M.gguf",)
    assert found.runs_on["llama.cpp"].startswith("drafts with the sidecar beside it (-md)")
    assert found.to_json()["sidecars"] == [str(tmp_path / "mtp-M.gguf")]
    assert found.hints[0] == "the sidecar mtp-M.gguf is beside it"
    assert [hint.split(" is not a sidecar for it: ")[0] for hint in found.hints[1:]] == [
        "mtp-damaged.gguf", "mtp-no-block.gguf", "mtp-other-arch.gguf", "mtp-other-size.gguf",
    ]  # fmt: skip


def test_a_trunk_is_not_its_own_sidecar(tmp_path: Path) -> None:
    assert look(tmp_path, arch_kvs(2), TRUNK, "mtp-M.gguf").sidecars == ()


def test_engines_of_families(tmp_path: Path) -> None:
    assert look(tmp_path, arch_kvs(2), TRUNK).runs_on["llama.cpp"].startswith("runs it without MTP")
    assert "attach it to a model" in look(tmp_path, ggufmaker.arch_kvs(3, 1), whole_block(2)).runs_on["llama.cpp"]
    loads = look(tmp_path, arch_kvs(2, arch="glm4"), TRUNK).runs_on
    assert loads == {"llama.cpp": "loads it; no engine drafts with this architecture up to b11549"}
    taps = look(tmp_path, arch_kvs(2, arch="llama"), TRUNK).runs_on
    assert list(taps) == ["llama.cpp"] and taps["llama.cpp"].startswith("runs it without MTP, and takes an EAGLE-3")
    assert look(tmp_path, arch_kvs(2, arch="gemma3"), TRUNK).runs_on == {}  # llama.cpp aborts beside such a draft


def test_an_architecture_that_uses_the_key_for_something_else(tmp_path: Path) -> None:
    found = look(tmp_path, arch_kvs(2, 1, arch="graniteswitch"), TRUNK)
    assert (found.shape, found.n_layer_trunk, found.problems) == ("trunk-only", 2, ())


# -- what cannot be inspected --------------------------------------------------------------------------------


def test_files_that_are_no_models(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=r"'general\.architecture' is missing"):
        look(tmp_path, [], TRUNK)
    (tmp_path / "bad.gguf").write_bytes(b"GGML")
    with pytest.raises(FormatError, match="not a GGUF file"):
        inspect(tmp_path / "bad.gguf")


@pytest.mark.parametrize("folder", ["valid", "invalid"])
def test_the_corpus_is_inspected_or_refused(folder: str) -> None:
    for path in sorted((DATA / "gguf_corpus" / folder).glob("*.gguf")):
        try:
            json.dumps(inspect(path).to_json())
        except NextnError as error:
            assert str(error).startswith(str(path))
        else:
            assert folder == "valid"
