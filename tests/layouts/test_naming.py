"""File names against the rules by which engines find models and sidecars."""

from __future__ import annotations

from pathlib import Path

import pytest
from ggufmaker import arch_kvs, make, trunk_tensors, write_set
from hypothesis import given
from hypothesis import strategies as st

from nextn.errors import UsageError
from nextn.gguf.files import open_model, set_prefix
from nextn.layouts.naming import (
    MAIN_FORBIDDEN,
    bundled_base,
    check_main_name,
    donor_name,
    resolve_output,
    sidecar_name,
    split_quant,
    trunk_base,
    with_mark,
)

TAGS = ["Q4_K_M", "Q8_0", "IQ4_XS", "BF16", "F16", "F32", "MXFP4_MOE", "TQ1_0", "iq2_ks", "q4_0", "FP8", "NVFP4"]


@pytest.mark.parametrize("tag", TAGS)
def test_the_quantization_is_the_last_part(tag: str) -> None:
    assert split_quant(f"Qwen3.5-9B-{tag}") == ("Qwen3.5-9B", tag)
    assert with_mark(f"Qwen3.5-9B-{tag}", "MTP") == f"Qwen3.5-9B-MTP-{tag}"
    assert bundled_base(f"Qwen3.5-9B-{tag}") == f"Qwen3.5-9B-MTP-{tag}"
    assert bundled_base(f"Qwen3.5-9B-MTP-{tag}") == f"Qwen3.5-9B-MTP-{tag}"
    assert trunk_base(f"Qwen3.5-9B-MTP-{tag}") == f"Qwen3.5-9B-trunk-{tag}"


@pytest.mark.parametrize("base", ["model", "Qwen3.5-9B", "Q4_K_M", "gpt-4b", "llama-Questions", "x-F16-final"])
def test_names_without_a_quantization(base: str) -> None:
    assert split_quant(base) == (base, "")
    assert bundled_base(base) == f"{base}-MTP"


@pytest.mark.parametrize(
    ("base", "bundled", "trunk"),
    [
        ("mtp-M-Q8_0", "MTP-M-MTP-Q8_0", "M-trunk-Q8_0"),
        ("M-mtp-Q8_0", "M-MTP-Q8_0", "M-trunk-Q8_0"),
        ("M-MTPx-Q8_0", "M-MTPx-MTP-Q8_0", "M-MTPx-trunk-Q8_0"),
        ("M-MTP", "M-MTP", "M-trunk"),
        ("X-Q4_K_M-mtp", "X-MTP-Q4_K_M", "X-trunk-Q4_K_M"),
        ("X-28B_MTP.Q6_K", "X-28B-MTP-Q6_K", "X-28B-trunk-Q6_K"),
        ("X-28B.i1-IQ2_XXS", "X-28B.i1-MTP-IQ2_XXS", "X-28B.i1-trunk-IQ2_XXS"),
        ("xmtp", "xMTP-MTP", "xMTP-trunk"),
    ],
)
def test_marks_that_are_there_already(base: str, bundled: str, trunk: str) -> None:
    assert bundled_base(base) == bundled
    assert trunk_base(base) == trunk


@given(st.from_regex(r"[A-Za-z0-9_.\-]{1,12}(mtp-|-MTP|-Q4_K_M|)", fullmatch=True))
def test_made_main_names_never_look_like_sidecars(base: str) -> None:
    for made in (bundled_base(base), trunk_base(base)):
        assert "mtp-" not in made
    check_main_name(f"{bundled_base('Model')}.gguf")


@pytest.mark.parametrize("mark", MAIN_FORBIDDEN)
def test_main_names_that_engines_pass_over_are_refused(mark: str) -> None:
    with pytest.raises(UsageError, match=f"never loads a file with '{mark}' in its name"):
        check_main_name(f"x-{mark}y.gguf")


@pytest.mark.parametrize(
    ("name", "sidecar"),
    [
        ("M-Q4_K_M.gguf", "mtp-M-q4_0.gguf"),
        ("M-MTP-Q4_K_M.gguf", "mtp-M-q4_0.gguf"),
        ("mtp-M-Q8_0.gguf", "mtp-M-q4_0.gguf"),
        ("M.gguf", "mtp-M-q4_0.gguf"),
    ],
)
def test_sidecar_names(name: str, sidecar: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(make(arch_kvs(1), trunk_tensors(1)).whole)
    assert sidecar_name(open_model(tmp_path / name), "q4_0") == sidecar


def test_the_sidecar_of_a_set_has_no_shard_number(tmp_path: Path) -> None:
    paths = write_set(tmp_path, "M-Q8_0", [(arch_kvs(1), []), ([], trunk_tensors(1))])
    assert sidecar_name(open_model(paths[1]), "q4_0") == "mtp-M-q4_0.gguf"


def test_donor_names_are_not_those_of_sidecars() -> None:
    assert donor_name("M-Q4_K_M", "bf16") == "M-MTP-donor-bf16.gguf"
    assert donor_name("mtp-M-Q4_K_M", "bf16") == "M-MTP-donor-bf16.gguf"
    assert donor_name("M-MTP", "bf16") == "M-MTP-donor-bf16.gguf"


def test_outputs(tmp_path: Path) -> None:
    there = tmp_path / "folder.gguf"
    there.mkdir()
    assert resolve_output(None, tmp_path, "a.gguf") == (tmp_path, "a.gguf")
    assert resolve_output(tmp_path, Path("elsewhere"), "a.gguf") == (tmp_path, "a.gguf")
    assert resolve_output(tmp_path / "b.gguf", Path("elsewhere"), "a.gguf") == (tmp_path, "b.gguf")
    assert resolve_output("b.gguf", Path("elsewhere"), "a.gguf") == (Path(), "b.gguf")
    assert resolve_output("new.gguf/", Path("elsewhere"), "a.gguf") == (Path("new.gguf"), "a.gguf")
    assert resolve_output(there, Path("elsewhere"), "a.gguf") == (there, "a.gguf")


@pytest.mark.parametrize("name", ["M-Q8_0.gguf", "M-Q8_0-00002-of-00003.gguf"])
def test_prefixes_of_sets(name: str) -> None:
    assert set_prefix(name) == "M-Q8_0"
