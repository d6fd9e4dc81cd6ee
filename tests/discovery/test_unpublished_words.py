"""A model that was never published with a block: attach, inspect and doctor say one sentence."""

from __future__ import annotations

from pathlib import Path

import pytest
from ggufmaker import arch_kvs, make, root_tensors, trunk_tensors

import nextn
from conftest import CHECKPOINT
from nextn.diagnosis import examine
from nextn.errors import NextnError, NoBlock
from nextn.measure.target import open_target


def trunk(folder: Path, arch: str, n_layer: int = 2, name: str = "M.gguf", *more: tuple[str, str, object]) -> Path:
    kvs = [*arch_kvs(n_layer, arch=arch), ("tokenizer.ggml.model", "str", "gpt2"), *more]
    path = folder / name
    path.write_bytes(make(kvs, [*root_tensors(), *trunk_tensors(n_layer)]).whole)
    return path


@pytest.mark.parametrize(
    "arch", ["llama", "gpt-oss", "qwen3moe", "minimax-m3", "glm4", "eagle3", "granite-switch", "gemma4", "no-such"]
)
def test_one_sentence(arch: str, tmp_path: Path) -> None:
    path = trunk(tmp_path, arch)
    said = next(each.what for each in examine(path).findings if not each.is_problem)
    assert nextn.inspect(path).hints[0].startswith(said.rstrip("."))
    for donor in (None, CHECKPOINT):
        with pytest.raises(NextnError) as refused:
            nextn.attach(path, donor)
        assert str(refused.value).removeprefix(f"{path}: ") == said
    if arch in ("eagle3", "gemma4"):  # a draft itself, or a model whose draft attach places
        return
    with pytest.raises(NoBlock) as refused:
        open_target(path)
    assert str(refused.value).endswith(f"; {said}")


def test_kimi_without_a_donor(tmp_path: Path) -> None:
    path = trunk(tmp_path, "deepseek2", 61, "Kimi-K2-Q8_0.gguf", ("deepseek2.expert_count", "u32", 384))
    said = examine(path).findings[0].what
    assert "published without an MTP block" in said
    with pytest.raises(NoBlock) as refused:
        nextn.attach(path)
    assert str(refused.value).removeprefix(f"{path}: ") == said
