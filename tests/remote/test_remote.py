"""Remote checkpoints and models over the real client: what is moved, what is kept, what is the same as local."""

from __future__ import annotations

import json
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import ggufmaker
import pytest
from hub_server import HubServer

from conftest import CHECKPOINT, Q4, TinyModels
from nextn.block.from_checkpoint import block_from_checkpoint
from nextn.block.from_gguf import block_from_model
from nextn.block.model import Block
from nextn.errors import IncompleteModel, StorageError, UsageError
from nextn.gguf.files import open_model
from nextn.layouts.attach import plan_attach
from nextn.layouts.options import AttachOptions as Attach
from nextn.partial import guard_of, refuse_partial
from nextn.remote.address import HubSource, UrlSource, parse_source
from nextn.remote.fetch import FIRST_READ_BYTES, GROWTH_BYTES, joined
from nextn.remote.http import Options
from nextn.remote.model import Remote
from nextn.remote.snapshot import open_remote
from nextn.sources.checkpoint import open_checkpoint
from nextn.sources.ranges import FileRange
from nextn.sources.safetensors import read_safetensors
from nextn.writing.execute import execute

REPO = "org/tiny-qwen35-mtp"
FAST = Options(backoff_s=0.01, n_retries=3, timeout_s=5)
Open = Callable[..., Remote]


@pytest.fixture
def opened(hub: HubServer, tmp_path: Path) -> Iterator[Open]:
    """Opens sources at the test server; all are closed at the end."""
    remotes: list[Remote] = []

    def make(text: str = REPO, options: Options = FAST) -> Remote:
        source = parse_source(text)
        assert isinstance(source, HubSource | UrlSource)
        remotes.append(open_remote(source, options=options, root=tmp_path / "cache", endpoint=hub.endpoint))
        return remotes[-1]

    yield make
    for remote in remotes:
        remote.__exit__()


def block_of(remote: Remote) -> Block:
    if remote.checkpoint is not None:
        return block_from_checkpoint(remote.checkpoint)
    assert remote.model is not None
    return block_from_model(remote.model)


def content(where: FileRange) -> bytes:
    return where.path.read_bytes()[where.start : where.end]


def size_of(ranges: list[FileRange]) -> int:
    return sum(where.size_bytes for where in ranges)


def safetensors(tensors: dict[str, tuple[str, list[int], bytes]], data_first: int = 0) -> bytes:
    table: dict[str, Any] = {}
    data = b""
    for name, (dtype, shape, blob) in tensors.items():
        table[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + len(blob)]}
        data += blob
    head = json.dumps(table).encode()
    return struct.pack("<Q", len(head)) + head + data


def header_bytes(path: Path) -> int:
    return 8 + int(struct.unpack_from("<Q", path.read_bytes()[:8])[0])


def sharded(n_shards: int, block_in: str) -> dict[str, bytes]:
    """The trained checkpoint with its block in one odd file and the trunk in many."""
    tensors = read_safetensors(CHECKPOINT / "model.safetensors")
    whole = (CHECKPOINT / "model.safetensors").read_bytes()
    files: dict[str, dict[str, tuple[str, list[int], bytes]]] = {block_in: {}}
    for i in range(1, n_shards):
        files[f"model-{i:05d}-of-{n_shards:05d}.safetensors"] = {f"filler.{i}": ("F32", [50_000], bytes(200_000))}
    names = [name for name in files if name != block_in]
    for i, (name, tensor) in enumerate(tensors.items()):
        file = block_in if name.startswith("mtp.") else names[i % len(names)]
        files[file][name] = (tensor.dtype, list(tensor.shape), whole[tensor.where.start : tensor.where.end])
    index = {name: file for file, some in files.items() for name in some}
    out = {file: safetensors(some) for file, some in files.items()}
    out["model.safetensors.index.json"] = json.dumps({"metadata": {}, "weight_map": index}).encode()
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        out[name] = (CHECKPOINT / name).read_bytes()
    return out


# -- checkpoints ------------------------------------------------------------------------------------------------------


def test_block_of_a_checkpoint_moves_nothing_else(hub: HubServer, opened: Open) -> None:
    commit = hub.add_folder(REPO, CHECKPOINT)
    remote = opened()
    block = block_of(remote)
    ranges = block.ranges
    heads = hub.file_bytes()
    assert heads == header_bytes(CHECKPOINT / "model.safetensors") + (CHECKPOINT / "config.json").stat().st_size
    assert remote.revision == commit
    assert remote.missing_bytes(ranges) == size_of(ranges) == block.read_bytes

    steps: list[tuple[int, int]] = []
    moved = remote.fetch(ranges, lambda done, total: steps.append((done, total)))
    assert moved == hub.file_bytes() - heads <= 1.02 * block.read_bytes
    assert steps[0] == (0, moved)
    assert steps[-1] == (moved, moved)
    assert len(hub.requests()) == 6  # info, config, resolve, header twice, block: the signed address is used again
    for mine, local in zip(ranges, block_from_checkpoint(open_checkpoint(CHECKPOINT)).ranges, strict=True):
        assert content(mine) == content(local)
    assert remote.missing_bytes(ranges) == 0


def test_a_second_run_moves_nothing(hub: HubServer, opened: Open) -> None:
    commit = hub.add_folder(REPO, CHECKPOINT)
    first = opened()
    first.fetch(block_of(first).ranges)
    hub.reset()
    again = opened()
    assert again.fetch(block_of(again).ranges) == 0
    assert [seen.path for seen in hub.requests()] == [f"/api/models/{REPO}/revision/main"]
    hub.reset()
    pinned = opened(f"hf:{REPO}@{commit}")
    assert pinned.fetch(block_of(pinned).ranges) == 0
    assert hub.requests() == []


def test_a_new_commit_is_another_source(hub: HubServer, opened: Open) -> None:
    hub.add_folder(REPO, CHECKPOINT)
    first = opened()
    first.fetch(block_of(first).ranges)
    changed = sharded(3, "mtp.safetensors")
    commit = hub.repo(REPO).commit(changed)
    second = opened()
    assert second.revision == commit != first.revision
    assert block_of(first).find("nextn.eh_proj.weight") is not None  # the first goes on at its own commit
    assert second.missing_bytes(block_of(second).ranges) > 0


def test_only_shards_of_the_block_are_touched(hub: HubServer, opened: Open) -> None:
    files = sharded(200, "mtp.safetensors")
    hub.repo(REPO).commit(files)
    remote = opened()
    block = block_of(remote)
    listed = len(files["config.json"]) + len(files["model.safetensors.index.json"])
    (length,) = struct.unpack_from("<Q", files["mtp.safetensors"])
    assert hub.file_bytes() == listed + 8 + length  # to the byte: config, index, the header of the one shard
    remote.fetch(block.ranges)
    assert {seen.path.rpartition("/")[2] for seen in hub.requests("resolve")} == {
        "config.json", "model.safetensors.index.json", "mtp.safetensors"
    }  # fmt: skip
    assert hub.file_bytes() <= listed + len(files["mtp.safetensors"])
    local = block_from_checkpoint(open_checkpoint(CHECKPOINT)).ranges
    assert [content(where) for where in block.ranges] == [content(where) for where in local]


def test_attached_from_afar_is_attached_from_here(hub: HubServer, opened: Open, tmp_path: Path) -> None:
    hub.add_folder(REPO, CHECKPOINT)
    remote = opened()
    outcomes = {}
    for name, block in (("local", block_from_checkpoint(open_checkpoint(CHECKPOINT))), ("remote", block_of(remote))):
        options = Attach("sidecar", None, None, None, tmp_path / name / "mtp-x.gguf")
        plan = plan_attach(open_model(Q4), block, options)
        remote.fetch(block.ranges)
        outcomes[name] = execute(plan)
    assert outcomes["local"].hashes == outcomes["remote"].hashes
    assert outcomes["local"].bytes_written == pytest.approx(outcomes["remote"].bytes_written, abs=4096)
    assert hub.file_bytes() < 0.3 * (CHECKPOINT / "model.safetensors").stat().st_size


def test_tokenizer_files_arrive_whole(hub: HubServer, opened: Open) -> None:
    hub.add_folder(REPO, CHECKPOINT)
    remote = opened()
    remote.fetch_tokenizer()
    assert remote.checkpoint is not None
    assert remote.checkpoint.vocabulary == open_checkpoint(CHECKPOINT).vocabulary
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (remote.folder / name).read_bytes() == (CHECKPOINT / name).read_bytes()


@pytest.mark.slow
def test_a_long_safetensors_header_takes_a_second_read(hub: HubServer, opened: Open) -> None:
    tensors = read_safetensors(CHECKPOINT / "model.safetensors")
    whole = (CHECKPOINT / "model.safetensors").read_bytes()
    some = {name: (t.dtype, list(t.shape), whole[t.where.start : t.where.end]) for name, t in tensors.items()}
    some |= {f"filler.{'x' * 200}.{i}": ("F32", [1], bytes(4)) for i in range(1000)}
    data = safetensors(some)
    hub.repo(REPO).commit({"config.json": (CHECKPOINT / "config.json").read_bytes(), "model.safetensors": data})
    remote = opened()
    assert len(block_of(remote).tensors) > 0
    header = 8 + struct.unpack_from("<Q", data)[0]
    assert hub.file_bytes() == header + (CHECKPOINT / "config.json").stat().st_size


# -- GGUF -------------------------------------------------------------------------------------------------------------


def test_block_of_a_gguf(hub: HubServer, opened: Open, tiny_models: TinyModels) -> None:
    hub.repo("org/g").commit({"x-Q8_0.gguf": tiny_models.bundled.read_bytes(), "mmproj-x.gguf": b"GGUF"})
    remote = opened("hf:org/g")
    assert remote.name == f"hf:org/g@{remote.revision}:x-Q8_0.gguf"
    heads = hub.file_bytes()
    local = open_model(tiny_models.bundled)
    assert heads <= local.header_bytes + max(FIRST_READ_BYTES, local.header_bytes)
    block = block_of(remote)
    assert remote.fetch(block.ranges) <= 1.02 * block.read_bytes
    assert [content(where) for where in block.ranges] == [
        content(where) for where in block_from_model(local).ranges
    ]


def test_block_of_a_gguf_set(hub: HubServer, opened: Open, tiny_models: TinyModels) -> None:
    hub.add_folder("org/set", tiny_models.shards.parent)
    remote = opened("hf:org/set")
    assert remote.model is not None
    assert [file.path.name for file in remote.model.files] == sorted(
        path.name for path in tiny_models.shards.parent.glob("*.gguf")
    )
    block = block_of(remote)
    remote.fetch(block.ranges)
    local = block_from_model(open_model(tiny_models.shards))
    assert [content(where) for where in block.ranges] == [content(where) for where in local.ranges]


def test_a_gguf_header_is_read_in_growing_steps(hub: HubServer, opened: Open) -> None:
    tokens = [f"token number {i}" for i in range(150_000)]
    kvs = [kv for kv in ggufmaker.arch_kvs(2) if kv[0] != "tokenizer.ggml.tokens"]
    made = ggufmaker.make(
        [*kvs, ("tokenizer.ggml.tokens", "[str]", tokens)],
        [*ggufmaker.root_tensors(), *ggufmaker.trunk_tensors(2), ggufmaker.f32("big.weight", 5_000_000)],
    )
    url = hub.serve_plain("big.gguf", made.whole)
    remote = opened(url)
    assert remote.model is not None and remote.model.header.data_offset == len(made.header)
    assert len(made.header) > 3_000_000
    assert hub.file_bytes() <= len(made.header) + GROWTH_BYTES
    assert len(hub.requests()) <= 10


@pytest.mark.parametrize(
    ("name", "error", "text"),
    [
        ("hf:org/many", UsageError, "matches 2 models"),
        ("hf:org/many:Q5_K_M", UsageError, "nothing named 'Q5_K_M'"),
        ("hf:org/none", UsageError, "neither a safetensors checkpoint nor a GGUF"),
        ("hf:org/half", IncompleteModel, "1 of 2 shards is missing"),
    ],
)
def test_a_repository_without_one_answer(
    hub: HubServer, opened: Open, name: str, error: type[Exception], text: str
) -> None:
    hub.repo("org/many").commit({"a-Q4_K_M.gguf": b"x", "a-Q8_0.gguf": b"y", "mtp-a.gguf": b"z"})
    hub.repo("org/none").commit({"README.md": b"nothing"})
    hub.repo("org/half").commit({"a-00001-of-00002.gguf": b"x"})
    with pytest.raises(error, match=text):
        opened(name)


def test_a_quant_by_its_name(hub: HubServer, opened: Open, tiny_models: TinyModels) -> None:
    data = tiny_models.bundled.read_bytes()
    hub.repo("org/many").commit({"sub/a-Q4_K_M.gguf": data, "b/a-Q8_0.gguf": data[:-1]})
    for name in ("hf:org/many:q4_k_m", "hf:org/many:sub", "hf:org/many:sub/", "hf:org/many:sub/a-Q4_K_M.gguf"):
        assert opened(name).name.endswith(":sub/a-Q4_K_M.gguf")


# -- plain servers ----------------------------------------------------------------------------------------------------


def test_plain_server(hub: HubServer, opened: Open, tiny_models: TinyModels) -> None:
    url = hub.serve_plain("models/x.gguf", tiny_models.bundled.read_bytes()) + "?key=secret"
    remote = opened(url)
    assert "secret" not in remote.name
    remote.fetch(block_of(remote).ranges)
    before = hub.file_bytes()
    again = opened(url)
    assert again.fetch(block_of(again).ranges) == 0
    assert hub.file_bytes() == before + 1  # the byte that asks whether the file is still the same
    assert all(seen.query == "key=secret" for seen in hub.requests())


def test_plain_server_that_changed_in_between(hub: HubServer, opened: Open, tiny_models: TinyModels) -> None:
    url = hub.serve_plain("x.gguf", tiny_models.bundled.read_bytes())
    first = opened(url)
    first.fetch(block_of(first).ranges)
    first.__exit__()
    data = bytearray(tiny_models.bundled.read_bytes())
    data[-1] ^= 255
    hub.serve_plain("x.gguf", bytes(data))
    second = opened(url)
    ranges = block_of(second).ranges
    assert second.fetch(ranges) > 0
    assert any(content(where).endswith(bytes(data[-8:])) or where.end <= len(data) - 8 for where in ranges)
    assert all(content(where) == bytes(data[where.start : where.end]) for where in ranges)


def test_checkpoint_on_a_plain_server(hub: HubServer, opened: Open) -> None:
    for path in CHECKPOINT.iterdir():
        url = hub.serve_plain(f"tiny/{path.name}", path.read_bytes())
    remote = opened(url.rpartition("/")[0] + "/")
    block = block_of(remote)
    remote.fetch(block.ranges)
    local = block_from_checkpoint(open_checkpoint(CHECKPOINT)).ranges
    assert [content(where) for where in block.ranges] == [content(where) for where in local]


# -- how bytes move ---------------------------------------------------------------------------------------------------


def test_near_ranges_are_joined_within_the_share() -> None:
    assert joined([(0, 100), (110, 200), (900, 1000)], 20) == [(0, 200), (900, 1000)]
    assert joined([(0, 100), (110, 200), (205, 300)], 5) == [(0, 100), (110, 300)]
    assert joined([(0, 10), (10, 20), (5, 15)], 0) == [(0, 20)]
    assert joined([], 9) == []


def test_rate_is_limited(hub: HubServer, opened: Open) -> None:
    hub.add_folder(REPO, CHECKPOINT)
    remote = opened(options=Options(limit_rate=4e6))
    ranges = block_of(remote).ranges
    started = time.perf_counter()
    remote.fetch(ranges)
    assert time.perf_counter() - started >= 0.9 * size_of(ranges) / 4e6


def test_several_streams(hub: HubServer, opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nextn.remote.model.PIECE_BYTES", (1 << 16, 1 << 18))
    hub.add_folder(REPO, CHECKPOINT)
    remote = opened()
    ranges = block_of(remote).ranges
    remote.fetch(ranges)
    assert len(hub.requests("^cdn")) >= 5
    assert size_of(ranges) + 2 * FIRST_READ_BYTES > hub.file_bytes()
    local = block_from_checkpoint(open_checkpoint(CHECKPOINT)).ranges
    assert [content(where) for where in ranges] == [content(where) for where in local]


def test_holes_are_never_read(hub: HubServer, opened: Open) -> None:
    hub.add_folder(REPO, CHECKPOINT)
    remote = opened()
    ranges = block_of(remote).ranges
    guard = guard_of(ranges[0].path)
    assert guard is not None
    guard.check(ranges[0].start, ranges[0].end)  # fetched on demand while the source is open
    assert content(ranges[0]) == content(block_from_checkpoint(open_checkpoint(CHECKPOINT)).ranges[0])
    remote.__exit__()
    guard.check(ranges[0].start, ranges[0].end)
    with pytest.raises(StorageError, match="never fetched"):
        guard.check(0, ranges[-1].end)
    with pytest.raises(StorageError, match="only parts"):
        refuse_partial(ranges[0].path)
    refuse_partial(Q4)
    assert guard_of(Q4) is None


def test_an_engine_never_gets_parts(hub: HubServer, opened: Open, tiny_models: TinyModels) -> None:
    from nextn.engines.base import Launch, refuse_parts

    hub.repo(REPO).commit({"model.gguf": tiny_models.bundled.read_bytes()})
    remote = opened()
    assert remote.model is not None
    remote.__exit__()
    for launch in (Launch(remote.model.entry), Launch(Q4, sidecar=remote.model.entry)):
        with pytest.raises(StorageError, match="only parts of a remote file"):
            refuse_parts(launch)
    refuse_parts(Launch(Q4))


def test_a_disk_without_room(hub: HubServer, opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    from nextn.errors import NoSpace

    hub.add_folder(REPO, CHECKPOINT)
    remote = opened()
    ranges = block_of(remote).ranges
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 1000})())
    with pytest.raises(NoSpace, match="are free"):
        remote.fetch(ranges)
