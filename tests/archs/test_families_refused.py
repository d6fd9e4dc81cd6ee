"""Architectures whose block no engine drafts with, a key that means something else, and keys that lie."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from ggufmaker import arch_kvs, block_tensors, make, root_tensors, trunk_tensors
from opened import open_donor

import nextn
from nextn.archs.others import LOADS_ONLY
from nextn.errors import NoBlock, UnsupportedModel
from nextn.gguf.files import open_model
from nextn.sources.checkpoint import open_checkpoint


@pytest.mark.parametrize("arch", sorted(LOADS_ONLY))
def test_a_block_that_only_loads_is_recognised_and_taken_off_and_never_put_on(arch: str, tmp_path: Path) -> None:
    bundled, trunk = tmp_path / "bundled.gguf", tmp_path / "trunk.gguf"
    kvs = arch_kvs(3, 1, arch)
    bundled.write_bytes(make(kvs, [*root_tensors(), *trunk_tensors(2), *block_tensors(2)]).whole)
    trunk.write_bytes(make(arch_kvs(2, None, arch), [*root_tensors(), *trunk_tensors(2)]).whole)
    found = nextn.inspect(bundled)
    assert (found.shape, found.n_layer_trunk, found.n_layer_nextn) == ("bundled", 2, 1)
    assert "no engine drafts" in found.runs_on["llama.cpp"]
    plain = open_model(nextn.detach(bundled, out=tmp_path / "plain.gguf").entry)
    assert plain.arch_int("block_count") == 2
    assert f"{arch}.nextn_predict_layers" not in plain.header.by_key
    assert not [name for name in plain.tensors if name.startswith("blk.2.")]
    with pytest.raises(UnsupportedModel, match="no engine drafts"):
        nextn.attach(trunk, bundled, out=tmp_path)


def test_the_router_layer_of_granite_switch_is_no_block(tmp_path: Path) -> None:
    path = tmp_path / "switch.gguf"
    path.write_bytes(make(arch_kvs(3, 1, "granite-switch"), [*root_tensors(), *trunk_tensors(3)]).whole)
    found = nextn.inspect(path)
    assert (found.shape, found.n_layer_trunk, found.n_layer_nextn, found.problems) == ("trunk-only", 3, 0, ())
    with pytest.raises(UnsupportedModel, match="a router layer, not for MTP"):
        nextn.detach(path)


@pytest.mark.parametrize(("kind", "key", "prefix"), [
    ("glm4moe", "num_nextn_predict_layers", "model.layers.2."),
    ("nemotronh", "num_nextn_predict_layers", "mtp."),
])  # fmt: skip
def test_keys_of_config_json_are_not_believed(kind: str, key: str, prefix: str, tmp_path: Path) -> None:

    from tiny_families import make_family

    folder = make_family(kind, tmp_path / kind)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({k: v for k, v in config.items() if k != key}))
    assert open_donor(folder).n_layer_nextn == 1  # weights without a count
    (folder / "config.json").write_text(json.dumps({**config, key: 1}))
    names = [name for name in open_checkpoint(folder).weight_map if not name.startswith(prefix)]
    index = {"weight_map": dict.fromkeys(names, "model.safetensors")}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(NoBlock, match="promises 1"):
        open_donor(folder)
