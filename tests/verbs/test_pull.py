"""Exactly the files that a variant needs: chosen from listings, and moved from a server that counts."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from ggufmaker import KV, Tensor, arch_kvs, block_tensors, make, root_tensors, split_kvs, trunk_tensors
from hub_server import Fault, HubServer, running
from schema_check import validate
from splitting import split_gguf

import nextn
from conftest import CHECKPOINT, Q4, ROOT, TRUNKS
from nextn.cli.pull import command as pull_command
from nextn.errors import (
    BlockPresent,
    FormatError,
    IncompleteModel,
    NextnError,
    NoBlock,
    NoSpace,
    OutputExists,
    RemoteError,
    UsageError,
)
from nextn.gguf.files import GGUFFile, read_header
from nextn.publish import manifest
from nextn.publish.choose import Chosen, choose, pick_label
from nextn.publish.listing import Listed, groups, label_of

Q8 = TRUNKS / "tiny-qwen35-Q8_0.gguf"
PULL_SCHEMA = json.loads((ROOT / "src" / "nextn" / "schemas" / "pull.json").read_text())

# -- a repository that exists as headers only -----------------------------------------------------------------------


class Fake:
    """Files made of descriptions; reading a header is counted."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.listing, self.read = folder, [], []  # type: ignore[var-annotated]

    def add(self, path: str, kvs: list[KV], tensors: list[Tensor], size_bytes: int | None = None) -> Fake:
        where = self.folder / path
        where.parent.mkdir(parents=True, exist_ok=True)
        where.write_bytes(make(kvs, tensors).whole)
        self.listing.append(Listed(path, size_bytes or where.stat().st_size))
        return self

    def plain(self, path: str, **more: int) -> Fake:
        return self.add(path, arch_kvs(2), [*root_tensors(), *trunk_tensors(2)], **more)

    def bundled(self, path: str, **more: int) -> Fake:
        return self.add(path, arch_kvs(3, 1), [*root_tensors(), *trunk_tensors(2), *block_tensors(2)], **more)

    def sidecar(self, path: str, hidden: int = 8, **more: int) -> Fake:
        return self.add(path, arch_kvs(3, 1, hidden=hidden), [*root_tensors(hidden), *block_tensors(2, hidden)], **more)

    def shards(self, prefix: str, with_block: bool) -> Fake:
        parts = [root_tensors(), trunk_tensors(2), *([block_tensors(2)] if with_block else [])]
        for i, tensors in enumerate(parts):
            kvs = split_kvs(i, len(parts), sum(map(len, parts)))
            own = (arch_kvs(3, 1) if with_block else arch_kvs(2)) if i == 0 else []
            self.add(f"{prefix}-{i + 1:05d}-of-{len(parts):05d}.gguf", [*own, *kvs], tensors)
        return self

    def header(self, path: str) -> GGUFFile:
        self.read.append(path)
        return read_header(self.folder / path)

    def choose(self, variant: str, quant: str | None = None, have: tuple[str, ...] = ()) -> Chosen:
        return choose(self.listing, None, variant, quant, self.header, have)


@pytest.fixture
def fake(tmp_path: Path) -> Fake:
    return Fake(tmp_path / "repo")


def paths(chosen: Chosen) -> list[str]:
    return [file.path for file in chosen.files]


def test_sets_are_told_apart_by_their_headers(fake: Fake) -> None:
    fake.shards("X-Q4_K_M", False).shards("X-with-Q4_K_M", True).plain("X-Q8_0.gguf")
    assert paths(fake.choose("plain", "Q4_K_M")) == [f"X-Q4_K_M-0000{i}-of-00002.gguf" for i in (1, 2)]
    chosen = fake.choose("mtp", "q4_k_m")
    assert paths(chosen) == [f"X-with-Q4_K_M-0000{i}-of-00003.gguf" for i in (1, 2, 3)]
    assert (chosen.entry, chosen.sidecar, chosen.quant) == ("X-with-Q4_K_M-00001-of-00003.gguf", None, "Q4_K_M")
    assert "X-Q8_0.gguf" not in fake.read  # other quants are not looked into
    assert "X-with-Q4_K_M-00002-of-00003.gguf" not in fake.read  # the last shard has the block: no other is read


def test_a_trunk_and_the_sidecar_that_fits(fake: Fake) -> None:
    fake.plain("q4/X-Q4_K_M.gguf").sidecar("mtp-X-Q8_0.gguf").sidecar("mtp-X-Q4_0.gguf")
    fake.sidecar("q4/mtp-wide-Q4_K_M.gguf", hidden=16).sidecar("other/mtp-X-Q4_K_M.gguf")
    chosen = fake.choose("mtp")
    assert paths(chosen) == ["q4/X-Q4_K_M.gguf", "mtp-X-Q4_0.gguf"]  # in reach, fits, nearest bits
    assert chosen.sidecar == "mtp-X-Q4_0.gguf" and "is the sidecar of" in chosen.why
    assert paths(fake.choose("plain")) == ["q4/X-Q4_K_M.gguf"]
    fake.add("q4/mtp-deep-Q4_K_M.gguf", arch_kvs(6, 1), [*root_tensors(), *block_tensors(5)])  # of a deeper model
    assert fake.choose("mtp").sidecar == "mtp-X-Q4_0.gguf"


def test_a_files_name_stands_for_its_model(fake: Fake) -> None:
    fake.plain("X-Q4_K_M.gguf").plain("other/X-Q4_K_M.gguf").shards("big/Y-Q4_K_M", False).sidecar("mtp-X-Q8_0.gguf")
    assert paths(fake.choose("plain", "X-Q4_K_M.gguf")) == ["X-Q4_K_M.gguf"]
    assert paths(fake.choose("plain", "other/X-Q4_K_M.gguf")) == ["other/X-Q4_K_M.gguf"]
    two = [f"big/Y-Q4_K_M-0000{i}-of-00002.gguf" for i in (1, 2)]
    for name in (two[1], "Y-Q4_K_M-00001-of-00002.gguf"):
        assert paths(fake.choose("plain", name)) == two
    assert paths(fake.choose("mtp", "X-Q4_K_M.gguf")) == ["X-Q4_K_M.gguf", "mtp-X-Q8_0.gguf"]
    for name in ("Z.gguf", "mtp-X-Q8_0.gguf"):
        with pytest.raises(UsageError, match=rf"'{name}' is not a model of this repository; it has X"):
            fake.choose("plain", name)


def test_what_is_there_already_decides_between_two_ways(fake: Fake) -> None:
    fake.plain("X-Q4_K_M.gguf", size_bytes=1000).bundled("X-MTP-Q4_K_M.gguf", size_bytes=1100)
    fake.sidecar("mtp-X-Q8_0.gguf", size_bytes=200)
    assert paths(fake.choose("mtp")) == ["X-MTP-Q4_K_M.gguf"]
    assert paths(fake.choose("mtp", have=("X-Q4_K_M.gguf",))) == ["X-Q4_K_M.gguf", "mtp-X-Q8_0.gguf"]


def test_a_variant_that_is_not_there_says_what_to_do(fake: Fake) -> None:
    fake.bundled("X-Q4_K_M.gguf").plain("X-Q8_0.gguf")
    fake.add("X-Q5_K_M.gguf", arch_kvs(3, 1), [*root_tensors(), *trunk_tensors(2)])  # promises, and lost it
    with pytest.raises(BlockPresent, match="'nextn detach'"):
        fake.choose("plain", "Q4_K_M")
    with pytest.raises(NoBlock, match="'nextn attach'"):
        fake.choose("mtp", "Q8_0")
    for variant, error in (("mtp", NoBlock), ("plain", UsageError)):
        with pytest.raises(error, match=r"X-Q5_K_M|no Q5_K_M"):
            fake.choose(variant, "Q5_K_M")
    with pytest.raises(UsageError, match=r"3 quants here.*Q4_K_M \([\d,]+ bytes\).*Q8_0"):
        fake.choose("mtp")
    with pytest.raises(UsageError, match="'Q2_K' names none"):
        fake.choose("mtp", "Q2_K")
    with pytest.raises(UsageError, match="'half' is not a variant"):
        fake.choose("half", "Q8_0")


def test_sets_with_holes_are_refused(fake: Fake) -> None:
    fake.shards("X-Q4_K_M", True)
    del fake.listing[1]
    with pytest.raises(IncompleteModel, match="00002-of-00003"):
        fake.choose("mtp")
    fake.listing[:] = [Listed("X-Q4_K_M-00001-of-99999.gguf", 1)]
    with pytest.raises(IncompleteModel, match="99,999 shards"):
        fake.choose("mtp")
    fake.listing[:] = [Listed("README.md", 1), Listed("mmproj-F16.gguf", 1)]
    with pytest.raises(UsageError, match="no GGUF model"):
        fake.choose("mtp")


@pytest.mark.parametrize(
    ("path", "label"),
    [
        ("X-Q4_K_M.gguf", "Q4_K_M"), ("X-UD-Q4_K_XL.gguf", "UD-Q4_K_XL"), ("X.i1-IQ3_M.gguf", "IQ3_M"),
        ("X.Q8_0.gguf", "Q8_0"), ("BF16/X-00001-of-00002.gguf", "BF16"), ("X-Q4_K_M-MTP.gguf", "Q4_K_M"),
        ("X-MTP-Q4_K_M-00002-of-00004.gguf", "Q4_K_M"), ("model.gguf", ""), ("UD-Q2_K_XL/model.gguf", "UD-Q2_K_XL"),
    ],
)  # fmt: skip
def test_labels(path: str, label: str) -> None:
    assert label_of(path) == label


def test_pick_label() -> None:
    sizes = {"Q4_K_M": 1, "UD-Q4_K_M": 2, "UD-Q2_K_XL": 3}
    assert pick_label(sizes, "q4_k_m") == "Q4_K_M" and pick_label(sizes, "Q2_K_XL") == "UD-Q2_K_XL"
    assert pick_label({"Q8_0": 1}, None) == "Q8_0"
    for wrong in ("K_M", "", "Q4"):
        with pytest.raises(UsageError):
            pick_label(sizes, wrong)


def test_groups_leave_auxiliary_files_out() -> None:
    some = [Listed(path, 1) for path in ("mmproj-x.gguf", "mtp-x.gguf", "x.imatrix", "imatrix.gguf", "a-Q4_0.gguf")]
    assert [group.entry for group in groups(some)] == ["a-Q4_0.gguf"]


# -- by manifest ----------------------------------------------------------------------------------------------------


def _unread(path: str) -> GGUFFile:
    raise AssertionError(f"{path} was read although there is a manifest")


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A published folder: a set with shards, and a single file with a sidecar."""
    folder = tmp_path_factory.mktemp("packed")
    shards = split_gguf(Q4, folder / "set", 3, tensors_first=False)
    return nextn.pack([shards[0], Q8], donor=CHECKPOINT, out=folder / "out").folder


def listing_of(folder: Path) -> tuple[list[Listed], manifest.Manifest]:
    found = manifest.decode((folder / "nextn.json").read_bytes(), "nextn.json")
    entries = found.by_path()
    files = sorted(path for path in folder.iterdir())
    return [
        Listed(path.name, path.stat().st_size, entries[path.name].sha256 if path.name in entries else None)
        for path in files
    ], found


def test_our_manifest_needs_no_headers(packed: Path) -> None:
    files, found = listing_of(packed)
    plain = choose(files, found, "plain", "Q4_K_M", _unread)
    mtp = choose(files, found, "mtp", "Q4_K_M", _unread)
    assert (len(plain.files), len(mtp.files)) == (3, 4)
    assert len({file.sha256 for file in mtp.files} - {file.sha256 for file in plain.files}) == 2
    single = choose(files, found, "mtp", "Q8_0", _unread)
    assert paths(single) == ["tiny-qwen35-Q8_0.gguf", "mtp-tiny-qwen35-Q8_0.gguf"]


def test_a_files_name_in_a_repository_with_a_manifest(packed: Path) -> None:
    files, found = listing_of(packed)
    for each in found.quants:
        chosen = choose(files, found, "plain", each.variants["mtp"].entry, _unread)
        assert (chosen.quant, chosen.variant) == (each.label, "plain")


def test_a_manifest_that_the_listing_contradicts_is_not_believed(packed: Path) -> None:
    files, found = listing_of(packed)
    name = "tiny-qwen35-Q8_0.gguf"
    for wrong in (Listed(name, 1, None), Listed(name, Q8.stat().st_size, "f" * 64)):
        with pytest.raises(FormatError, match="not the file that the manifest describes"):
            choose([wrong, *(file for file in files if file.path != name)], found, "plain", "Q8_0", _unread)
    with pytest.raises(IncompleteModel, match="which the repository does not have"):
        choose([file for file in files if file.path != name], found, "plain", "Q8_0", _unread)


# -- over HTTP ------------------------------------------------------------------------------------------------------


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """A server, and the real client with a cache of its own."""
    from huggingface_hub import constants

    with running() as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.endpoint)  # as HF_ENDPOINT would when it is imported
        template = "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", server.endpoint + template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hf"))
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setenv("NEXTN_CACHE", str(tmp_path / "cache"))
        yield server


def test_the_other_variant_moves_only_what_is_missing(hub: HubServer, packed: Path, tmp_path: Path) -> None:
    hub.add_folder("me/tiny", packed)
    out = tmp_path / "out"
    dry = nextn.pull("me/tiny", out=out, quant="Q4_K_M", variant="plain", dry_run=True)
    assert dry.dry_run and not out.exists() and not hub.requests("resolve/.*[.]gguf")
    plain = nextn.pull("me/tiny", out=out, quant="Q4_K_M", variant="plain")
    sizes = {path.name: path.stat().st_size for path in packed.iterdir()}
    assert plain.bytes_downloaded == dry.bytes_downloaded == sum(
        size for name, size in sizes.items() if name.startswith("tiny-qwen35-Q4_K_M-")
    )
    there = sorted(path.name for path in out.iterdir())
    assert there == [f"tiny-qwen35-Q4_K_M-0000{i}-of-00003.gguf" for i in (1, 2, 3)]
    assert nextn.inspect(plain.entry).shape == "trunk-only"
    hub.reset()
    mtp = nextn.pull("me/tiny", out=out, quant="Q4_K_M")
    new = [sizes[f"tiny-qwen35-MTP-Q4_K_M-0000{i}-of-00004.gguf"] for i in (1, 4)]
    assert mtp.bytes_downloaded == sum(new)
    manifest_bytes = (packed / "nextn.json").stat().st_size
    assert sum(new) <= hub.file_bytes() <= sum(new) + manifest_bytes
    assert [step.state for step in mtp.steps] == ["download", "cached", "cached", "download"]
    assert nextn.inspect(mtp.entry).shape == "bundled"
    for path in out.iterdir():
        assert path.read_bytes() == (packed / path.name).read_bytes()
    one, other = (out / f"tiny-qwen35-{name}.gguf" for name in ("Q4_K_M-00002-of-00003", "MTP-Q4_K_M-00002-of-00004"))
    assert one.samefile(other)
    hub.reset()
    again = nextn.pull("me/tiny", out=out, quant="Q4_K_M")
    assert {step.state for step in again.steps} == {"present"} and not again.dry_run and again.outcome is None
    assert hub.file_bytes() <= manifest_bytes
    for result in (dry, plain, mtp, again):
        validate(result.to_json(), PULL_SCHEMA)


def test_a_foreign_repository_is_understood_by_headers(hub: HubServer, packed: Path, tmp_path: Path) -> None:
    names = ["tiny-qwen35-Q8_0.gguf", "mtp-tiny-qwen35-Q8_0.gguf"]
    hub.repo("you/any").commit({f"deep/{name}": (packed / name).read_bytes() for name in names})
    result = nextn.pull("hf:you/any", out=tmp_path / "out")
    assert result.sidecar == tmp_path / "out" / names[1] and result.entry == tmp_path / "out" / names[0]
    assert all((tmp_path / "out" / name).read_bytes() == (packed / name).read_bytes() for name in names)
    plain = nextn.pull("you/any", out=tmp_path / "out", variant="plain")
    assert plain.bytes_downloaded == 0 and plain.outcome is None


def test_headers_alone_are_read_to_refuse(hub: HubServer, tmp_path: Path) -> None:
    hub.repo("you/any").commit({"x-Q8_0.gguf": Q8.read_bytes()})
    with pytest.raises(NoBlock):
        nextn.pull("you/any", out=tmp_path / "out")
    assert 0 < hub.file_bytes() < Q8.stat().st_size / 4 and not (tmp_path / "out").exists()


def test_another_file_of_a_name_is_never_replaced(hub: HubServer, packed: Path, tmp_path: Path) -> None:
    hub.add_folder("me/tiny", packed)
    out = tmp_path / "out"
    out.mkdir()
    mine = out / "tiny-qwen35-Q8_0.gguf"
    for data in (b"mine", bytes(Q8.stat().st_size)):  # another size, and the size alone
        mine.write_bytes(data)
        with pytest.raises(OutputExists, match="another file has this name"):
            nextn.pull("me/tiny", out=out, quant="Q8_0")
        assert mine.read_bytes() == data and len(list(out.iterdir())) == 1
    mine.write_bytes(Q8.read_bytes())  # the file itself, from elsewhere
    result = nextn.pull("me/tiny", out=out, quant="Q8_0")
    assert [step.state for step in result.steps] == ["present", "download"]


def _into_hub_cache(hub: HubServer, repo: str, name: str) -> Path:
    from huggingface_hub import hf_hub_download

    return Path(hf_hub_download(repo, name, endpoint=hub.endpoint))


def test_what_the_hub_cache_has_is_linked(hub: HubServer, packed: Path, tmp_path: Path) -> None:
    hub.add_folder("me/tiny", packed)
    name = "tiny-qwen35-Q8_0.gguf"
    blob = _into_hub_cache(hub, "me/tiny", name).resolve()
    hub.reset()
    for link in ("symlink", "hard"):
        out = tmp_path / link
        result = nextn.pull("me/tiny", out=out, quant="Q8_0", variant="plain", link=link)
        assert [step.state for step in result.steps] == ["cached"] and result.bytes_downloaded == 0
        assert result.entry.is_symlink() == (link == "symlink") and result.entry.samefile(blob)
        assert sorted(path.name for path in out.iterdir()) == [name]
    assert not hub.requests("resolve/.*[.]gguf")


def test_what_the_cache_damaged_is_not_linked(hub: HubServer, packed: Path, tmp_path: Path) -> None:
    hub.add_folder("me/tiny", packed)
    blob = _into_hub_cache(hub, "me/tiny", "tiny-qwen35-Q8_0.gguf").resolve()
    blob.write_bytes(bytes(blob.stat().st_size))
    with pytest.raises(NextnError, match="what is in the cache is not the file"):
        nextn.pull("me/tiny", out=tmp_path / "b", quant="Q8_0", variant="plain")
    assert not (tmp_path / "b").exists()


# -- a folder that fills --------------------------------------------------------------------------------------------


@pytest.fixture
def big(hub: HubServer) -> str:
    """A repository of two models of some MB."""
    rows = 40_000  # of 34 bytes
    for_name = {
        f"x-{label}.gguf": make(
            [*arch_kvs(2), ("general.name", "str", label)],
            [*root_tensors(), *trunk_tensors(2), ("big.weight", (32, rows), 8, bytes([i]) * 34 * rows)],
        ).whole
        for i, label in enumerate(("Q4_K_M", "Q8_0"))
    }
    hub.repo("me/big").commit(for_name)
    return "me/big"


def _pull_process(hub: HubServer, tmp_path: Path, *args: str) -> subprocess.Popen[str]:
    env = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "NEXTN_"))}
    env["NEXTN_DATA"] = os.environ["NEXTN_DATA"]
    env |= {"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(tmp_path / "hf"), "NEXTN_CACHE": str(tmp_path / "own")}
    command = [sys.executable, "-m", "nextn", "pull", "me/big", "--variant", "plain", "-o", str(tmp_path / "out")]
    return subprocess.Popen([*command, *args], env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_a_killed_pull_goes_on(hub: HubServer, big: str, tmp_path: Path) -> None:
    size = hub.repo(big).commits[hub.repo(big).refs["main"]]["x-Q8_0.gguf"]
    killed = _pull_process(hub, tmp_path, "--quant", "Q8_0", "--limit-rate", "1e6")
    deadline = time.monotonic() + 30
    notes: list[Path] = []
    while time.monotonic() < deadline:
        notes = list((tmp_path / "out" / ".nextn-pull").rglob("*.nextn-extents")) if (tmp_path / "out").exists() else []
        if notes and notes[0].read_bytes().count(b"\n") >= 2:  # what it is, and a first part
            break
        time.sleep(0.02)
    killed.kill()
    killed.communicate(timeout=20)
    assert killed.returncode == -9
    assert [path.name for path in (tmp_path / "out").iterdir()] == [".nextn-pull"]
    done = _pull_process(hub, tmp_path, "--quant", "Q4_K_M")  # another model in between leaves the parts
    assert done.communicate(timeout=60) and done.returncode == 0
    hub.reset()
    done = _pull_process(hub, tmp_path, "--quant", "Q8_0", "--json")
    out, err = done.communicate(timeout=60)
    assert done.returncode == 0, err
    moved = json.loads(out)["bytes_downloaded"]
    assert 0 < moved < len(size.data) and hub.file_bytes() < len(size.data)
    assert (tmp_path / "out" / "x-Q8_0.gguf").read_bytes() == size.data
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["x-Q4_K_M.gguf", "x-Q8_0.gguf"]


def test_a_large_file_comes_in_several_streams(
    hub: HubServer, big: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from nextn.remote import model as remote

    monkeypatch.setattr(remote, "PIECE_BYTES", (1 << 18, 1 << 18))
    steps: list[tuple[int, int]] = []
    result = nextn.pull(
        big, out=tmp_path / "out", quant="Q8_0", variant="plain", progress=lambda *step: steps.append(step)
    )
    ranges = [seen for seen in hub.requests("^cdn") if seen.headers.get("range", "").startswith("bytes=")]
    assert len(ranges) >= result.entry.stat().st_size >> 18 and hub.most_at_once > 1
    assert steps[-1][0] == steps[-1][1] and steps == sorted(steps)


def test_bytes_that_are_wrong_are_thrown_away(hub: HubServer, big: str, tmp_path: Path) -> None:
    hub.faults.append(Fault("corrupt", "^cdn", times=100, skip=2))  # the first answers are headers
    with pytest.raises(RemoteError, match=r"what arrived is not the file: its sha256 is .* the Hub says"):
        nextn.pull(big, out=tmp_path / "out", quant="Q8_0", variant="plain")
    assert [path.name for path in (tmp_path / "out").iterdir()] == [".nextn-pull"]
    hub.faults.clear()
    nextn.pull(big, out=tmp_path / "out", quant="Q8_0", variant="plain")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["x-Q8_0.gguf"]


def test_errors_name_addresses(hub: HubServer, tmp_path: Path) -> None:
    commit = hub.repo("me/bad").commit({"x-Q8_0.gguf": b"no model at all" * 1000})
    with pytest.raises(FormatError, match=f"^hf:me/bad@{commit}:x-Q8_0.gguf, byte 0: this is not a GGUF file"):
        nextn.pull("me/bad", out=tmp_path / "out")


def test_a_folder_without_hard_links_gets_the_file_too(
    hub: HubServer, big: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from nextn.writing.system import System

    def no_links(self: System, source: Path, target: Path) -> None:
        raise OSError(errno.EPERM, "not permitted")

    monkeypatch.setattr(System, "link", no_links)
    result = nextn.pull(big, out=tmp_path / "out", quant="Q8_0", variant="plain")
    assert result.outcome is not None and result.outcome.links == {"x-Q8_0.gguf": "moved"}
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["x-Q8_0.gguf"]
    validate(result.to_json(), PULL_SCHEMA)


def test_a_disk_too_small_is_said_first(
    hub: HubServer, big: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    with pytest.raises(NoSpace, match=r"bytes are needed and 1,000 are free; free some room\.$"):
        nextn.pull(big, out=tmp_path / "out", quant="Q8_0", variant="plain")


def test_errors_are_sentences(hub: HubServer, tmp_path: Path) -> None:
    for source, words in (("no/such", "no such model repository"), ("https://example.org/x.gguf", "not a repository")):
        with pytest.raises(NextnError, match=words):
            nextn.pull(source, out=tmp_path / "out")
    hub.repo("me/bad").commit({"nextn.json": b"{}", "x-Q8_0.gguf": Q8.read_bytes()})
    with pytest.raises(FormatError, match=r"me/bad.*nextn\.json.*damaged"):
        nextn.pull("me/bad", out=tmp_path / "out")


def test_the_command_prints_the_path_or_json(
    hub: HubServer, packed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.add_folder("me/tiny", packed)
    args = ["me/tiny", "--quant", "Q8_0", "-o", str(tmp_path / "out")]
    pull_command.main([*args, "--dry-run", "--json"], standalone_mode=False)
    data = json.loads(capsys.readouterr().out)
    validate(data, PULL_SCHEMA)
    assert data["dry_run"] and data["bytes_downloaded"] == data["size_bytes"]
    pull_command.main(args, standalone_mode=False)
    seen = capsys.readouterr()
    assert seen.out == f"{tmp_path / 'out' / Q8.name}\n" and "-md" in seen.err
