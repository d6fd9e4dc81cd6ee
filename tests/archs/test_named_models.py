"""Checkpoints of models that no engine here drafts with: each is told by name, in one short sentence."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

import nextn
from conftest import TRUNKS
from nextn.errors import UnsupportedModel
from nextn.gguf.files import open_model
from tiny_families import make_family

# class, model_type, the model's name, what is said of it
MODELS = [
    ("MiniMaxM3SparseForConditionalGeneration", "minimax_m3", "MiniMax-M3", "no MTP weights were released"),
    ("KimiK3ForConditionalGeneration", "kimi_k3", "Kimi-K3", "runs it without MTP"),
    ("HYV4ForCausalLM", "hy_v4", "Hunyuan V4", "drops its MTP block"),
    ("InklingForCausalLM", "inkling", "Inkling", "does not know the model"),
    ("LongcatFlashForCausalLM", "longcat_flash", "LongCat-Flash", "does not know the model"),
    ("PanguUltraMoEForCausalLM", "pangu_ultra_moe", "Pangu Ultra", "does not know the model"),
    ("MiMoForCausalLM", "mimo", "MiMo-7B", "does not know the model"),
    ("Ernie4_5_MoeForCausalLM", "ernie4_5_moe", "ERNIE 4.5", "drops its MTP block"),
    ("BailingMoeV2_5ForCausalLM", "bailing_moe_v2_5", "Ling 2.5", "does not know the model"),
    ("InternS2PreviewForConditionalGeneration", "intern_s2_preview", "Intern-S2", "it wraps a text model"),
    ("NemotronHPuzzleForCausalLM", "nemotron_h_puzzle", "Nemotron Puzzle", "drops its MTP block"),
    ("GigaChat3_5ForCausalLM", "gigachat3_5", "GigaChat 3.5", "does not know the model"),
    ("DeepseekV4_1ForCausalLM", "deepseek_v4_1", "DeepSeek-V4.1", "does not know the model"),
    ("Gemma4AssistantForCausalLM", "gemma4_assistant", "Gemma 4's assistant", "convert_hf_to_gguf.py"),
    ("BailingMoeV2ForCausalLM", "bailing_moe", "Ling 2.0", "no engine drafts"),
    ("LlamaForCausalLM", "llama", "Llama 1 to 3", "no MTP block was ever published"),
    ("UnheardOfForCausalLM", "unheard_of", "UnheardOfForCausalLM", "does not know the model class"),
]


@pytest.mark.parametrize(("name", "model_type", "title", "words"), MODELS)
def test_it_is_told_by_name(
    name: str, model_type: str, title: str, words: str, family: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    for path in family("glm4moe").iterdir():
        (folder / path.name).symlink_to(path)
    config = json.loads((family("glm4moe") / "config.json").read_text())
    (folder / "config.json").unlink()
    (folder / "config.json").write_text(json.dumps({**config, "architectures": [name], "model_type": model_type}))
    with pytest.raises(UnsupportedModel) as caught:
        nextn.extract(folder, out=tmp_path / "mtp-x.gguf")
    text = str(caught.value).removeprefix(str(folder))
    assert title in text and words in text
    assert len(text) < 200 and "Qwen3_5" not in text
    trunk = TRUNKS / "families" / "glm4moe-Q8_0.gguf"
    for call in (lambda: nextn.attach(trunk, folder, dry_run=True), lambda: nextn.doctor(trunk, donor=folder)):
        with pytest.raises(UnsupportedModel) as caught:
            call()
        assert str(caught.value).removeprefix(str(folder)) == text
    seen = nextn.doctor(folder).before
    assert seen.problems == () and any(title in finding.what for finding in seen.findings)
    assert any(title in hint for hint in nextn.inspect(folder).hints)
    if "Assistant" in name:  # what is to be done is not said to be nothing
        (only,) = seen.findings
        assert only.id == "draft-model" and "convert it" in only.entry.mend


def test_a_block_that_no_graph_drafts_with_says_why(family: Callable[[str], Path], tmp_path: Path) -> None:
    """Queries without low rank, as in GigaChat3: another donor would not help."""
    from variants import make, variants_of

    folder = make_family("glm4moelite", tmp_path / "glm4moelite")
    variant = variants_of("glm4moelite", folder)["with plain queries"]
    checkpoint = make(variant, folder, tmp_path / "plain")
    with pytest.raises(UnsupportedModel, match=r"not low-rank.*no other donor helps"):
        nextn.extract(checkpoint, out=tmp_path / "mtp-x.gguf")


def test_dspark_stages_are_no_blocks(family: Callable[[str], Path], tmp_path: Path) -> None:
    from variants import Variant, make

    stages = {f"mtp.{k}.{name}": [8, 8] for k in (1, 2) for name in ("attn_norm.weight", "norm.weight")}
    more = {"mtp.0.markov_head.markov_w1.weight": [8, 8], "mtp.0.main_proj.weight": [8, 8], **stages}
    checkpoint = make(Variant("deepseek4", add=more), family("deepseek4"), tmp_path / "dspark")
    with pytest.raises(UnsupportedModel, match=r"staged DSpark draft.*--dspark"):
        nextn.extract(checkpoint, out=tmp_path / "mtp-x.gguf")
    (finding,) = nextn.doctor(checkpoint).before.findings
    assert "DSpark" in finding.what and finding.severity == "note"


def test_26_layers_of_deepseek2_without_low_rank_are_gigachat3(tmp_path: Path) -> None:
    from ggufmaker import F32
    from ggufmaker import make as make_gguf

    def trunk(n_layer: int) -> Path:
        kvs = [("general.architecture", "str", "deepseek2"), ("deepseek2.block_count", "u32", n_layer),
               ("deepseek2.embedding_length", "u32", 8), ("tokenizer.ggml.model", "str", "gpt2")]  # fmt: skip
        tensors = [(f"blk.{i}.attn_norm.weight", [8], F32, bytes(32)) for i in range(n_layer)]
        tensors.append(("token_embd.weight", [8, 2], F32, bytes(64)))
        path = tmp_path / f"some-{n_layer}.gguf"
        path.write_bytes(make_gguf(kvs, tensors).whole)
        assert open_model(path).architecture == "deepseek2"
        return path

    def told(n_layer: int) -> str:
        return " ".join(finding.what for finding in nextn.doctor(trunk(n_layer)).before.findings)

    assert "GigaChat3-10B-A1.8B was published with an MTP block" in told(26) and "V2-Lite" not in told(26)
    assert "DeepSeek-V2-Lite" in told(27) and "GigaChat" not in told(27)
