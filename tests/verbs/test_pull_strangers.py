"""Repositories of strangers: no name and no content gets into the user's folder that is not a model's."""

from __future__ import annotations

import hashlib
import json
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from all_verbs import run
from faults import listing
from ggufmaker import Tensor, arch_kvs, block_tensors, make, root_tensors, split_kvs, trunk_tensors
from hub_server import Fault, HubServer

import nextn
from conftest import Q4
from nextn.errors import FormatError, IncompleteModel
from nextn.publish.accept import wrong_name

Run = Callable[..., "subprocess.CompletedProcess[str]"]
SHELL = b"echo PWNED > pwned\n" * 500
PLAIN = make(arch_kvs(2), [*root_tensors(), *trunk_tensors(2)]).whole
BUNDLED = make(arch_kvs(3, 1), [*root_tensors(), *trunk_tensors(2), *block_tensors(2)]).whole
SIDECAR = make(arch_kvs(3, 1), [*root_tensors(), *block_tensors(2)]).whole
WIDE = make(arch_kvs(3, 1, hidden=16), [*root_tensors(16), *block_tensors(2, 16)]).whole


def manifest(
    files: Mapping[str, bytes], entry: str, sidecar: str | None = None, architecture: str = "qwen35",
    variant: str = "mtp", **changes: object,
) -> bytes:  # fmt: skip
    """A nextn.json that names all `files` as one variant."""
    parts = [{"path": name, "part": "sidecar" if name == sidecar else "trunk"} for name in files]
    entries = [
        {"path": name, "size_bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        for name, data in files.items()
    ]
    made = {"entry": entry, "sidecar": sidecar, "files": parts}
    quants = [{"quant": "Q4_K_M", "layout": "sidecar", "variants": {variant: made}}]
    value = {"version": 1, "tool": "x", "model": "M", "architecture": architecture, "files": entries, "quants": quants}
    return json.dumps(value | changes).encode()


def publish(hub: HubServer, files: Mapping[str, bytes], *args: str | None, **more: str) -> None:
    made = manifest(files, *args, **more)  # type: ignore[arg-type]
    hub.repo("e/vil").commit({**files, "nextn.json": made})


@pytest.fixture
def refused(hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Pulls e/vil into a home folder, and expects that it gets nothing."""
    monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
    monkeypatch.setenv("NEXTN_CACHE", str(tmp_path / "own"))

    def pull(code: int = FormatError.exit_code, variant: str = "mtp") -> str:
        home = tmp_path / "home"
        done = run("pull", "e/vil", "--variant", variant, "-o", home)
        assert (done.code, done.bug, done.out) == (code, "", ""), done.err
        assert not home.exists()
        assert done.err.count("\n") == 1 and done.err.startswith("nextn: ")
        return done.err

    return pull


WRONG = {
    "begins with a dot or a dash": [".bash_profile", ".model.gguf", ".config/x.gguf", "-rf.gguf", ".gguf"],
    "does not end in .gguf": ["sitecustomize.py", "Makefile", "x.gguf.exe", "README.md", "a/b/usercustomize.pth"],
    "contains invisible characters": ["a\x1b]0;PWN\x07.gguf", "a\nb.gguf", "\u202efugg.gguf", "a\u200b.gguf"],
    "is not valid on every system": [
        "NUL.gguf", "con.gguf", "Com1.tar.gguf", "aux/x.gguf", "lpt\u00b9.gguf", "a:b.gguf", "a?.gguf", "a|b.gguf",
        " a.gguf", "a. /x.gguf", "a./x.gguf",
    ],
    "is longer than 255 bytes": ["x" * 251 + ".gguf"],
}  # fmt: skip
NAMES = {name: why for why, names in WRONG.items() for name in names}


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES, ids=lambda name: ascii(name)[:30])
def test_a_name_is_refused_as_entry_and_as_sidecar(hub: HubServer, refused: Callable[..., str], name: str) -> None:
    """Even for a true GGUF: the name itself does harm."""
    plain, sidecar = (SHELL, SHELL) if name.endswith((".py", "profile")) else (PLAIN, SIDECAR)
    publish(hub, {name: plain, "mtp-x.gguf": sidecar}, name, "mtp-x.gguf")
    first = refused()
    publish(hub, {"x-Q4_K_M.gguf": plain, name: sidecar}, "x-Q4_K_M.gguf", name)
    for said in (first, refused()):
        assert f": its name {NAMES[name]}" in said and "nothing was written" in said and said[:-1].isprintable()


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["/etc/x.gguf", "../x.gguf", "a/../../x.gguf", "a//x.gguf", "a\\..\\x.gguf", "./x.gguf"]
)
def test_a_path_that_leads_out_is_refused(hub: HubServer, refused: Callable[..., str], name: str) -> None:
    assert wrong_name(name) is not None
    publish(hub, {name: PLAIN, "mtp-x.gguf": SIDECAR}, name, "mtp-x.gguf")
    assert "the manifest is damaged" in refused()


@pytest.mark.slow
@pytest.mark.parametrize(
    "names", [("x.gguf", "X.gguf"), ("a/x.gguf", "b/x.gguf"), ("stra\u00dfe.gguf", "STRASSE.gguf"),
              ("\u00e9.gguf", "e\u0301.gguf")], ids=ascii,
)  # fmt: skip
def test_names_that_a_file_system_may_hold_for_equal(
    hub: HubServer, refused: Callable[..., str], names: tuple[str, str]
) -> None:
    publish(hub, {names[0]: PLAIN, names[1]: SIDECAR}, *names)
    assert "would get the same name" in refused()


def test_a_file_that_is_named_twice(hub: HubServer, refused: Callable[..., str]) -> None:
    files = {"x.gguf": PLAIN, "mtp-x.gguf": SIDECAR}
    doubled = json.loads(manifest(files, "x.gguf", "mtp-x.gguf"))
    doubled["quants"][0]["variants"]["mtp"]["files"] *= 2
    hub.repo("e/vil").commit({**files, "nextn.json": json.dumps(doubled).encode()})
    assert "names a file twice" in refused()


CONTENT: dict[str, tuple[dict[str, bytes], str | None, str, str]] = {
    "shell": ({"x.gguf": SHELL}, None, "mtp", "not a GGUF file"),
    "empty": ({"x.gguf": b""}, None, "mtp", "not a GGUF file|too short|empty"),
    "shell beside": ({"x.gguf": PLAIN, "mtp-x.gguf": SHELL}, "mtp-x.gguf", "mtp", "not a GGUF file"),
    "cut": ({"x.gguf": BUNDLED[:-64]}, None, "mtp", "ends|beyond|truncated"),
    "no block": ({"x.gguf": PLAIN}, None, "mtp", "expected a model with its MTP block, found a model without"),
    "a block": ({"x.gguf": BUNDLED}, None, "plain", "expected a model without an MTP block, found a model with"),
    "other sidecar": ({"x.gguf": PLAIN, "mtp-x.gguf": WIDE}, "mtp-x.gguf", "mtp", "not a sidecar of 'x.gguf'"),
    "trunk as sidecar": ({"x.gguf": PLAIN, "mtp-x.gguf": PLAIN + b"\0"}, "mtp-x.gguf", "mtp", "not a sidecar of"),
    "only a sidecar": ({"x.gguf": SIDECAR}, None, "plain", "found block only"),
    "a set": ({"x-00001-of-00002.gguf": BUNDLED, "x-00002-of-00002.gguf": PLAIN}, None, "mtp",
              "expected 1 files, found 2"),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("case", CONTENT)
def test_content_that_is_not_what_was_promised(hub: HubServer, refused: Callable[..., str], case: str) -> None:
    files, sidecar, variant, words = CONTENT[case]
    publish(hub, files, next(iter(files)), sidecar, variant=variant)
    said = refused(variant=variant)
    assert any(word in said for word in words.split("|")), said


def test_shell_text_is_not_downloaded_first(hub: HubServer, refused: Callable[..., str]) -> None:
    publish(hub, {"x.gguf": SHELL * 200}, "x.gguf")
    refused()
    assert hub.file_bytes() < 100_000


def test_another_architecture_than_the_manifest_says(hub: HubServer, refused: Callable[..., str]) -> None:
    publish(hub, {"x.gguf": BUNDLED}, "x.gguf", architecture="llama")
    assert "architecture is not what the manifest says" in refused()


@pytest.mark.slow
def test_other_bytes_than_the_manifest_says(hub: HubServer, refused: Callable[..., str]) -> None:
    hub.repo("e/vil").commit({"x.gguf": BUNDLED, "nextn.json": manifest({"x.gguf": BUNDLED + b"\0"}, "x.gguf")})
    assert "not the file that the manifest describes" in refused()
    hub.repo("e/vil").commit({"y.gguf": BUNDLED, "nextn.json": manifest({"x.gguf": BUNDLED}, "x.gguf")})
    assert "which the repository does not have" in refused(IncompleteModel.exit_code)


def shards(numbers: list[int], counts: list[int]) -> dict[str, bytes]:
    parts: list[list[Tensor]] = [root_tensors(), [*trunk_tensors(2), *block_tensors(2)]]
    return {
        f"x-{i + 1:05d}-of-00002.gguf": make(
            [*(arch_kvs(3, 1) if i == 0 else []), *split_kvs(numbers[i], counts[i], sum(map(len, parts)))], parts[i]
        ).whole
        for i in range(2)
    }


@pytest.mark.slow
@pytest.mark.parametrize(
    ("numbers", "counts", "words"),
    [([0, 0], [2, 2], "name and its header disagree"), ([1, 0], [2, 2], "name and its header disagree"),
     ([0, 1], [3, 3], "set is not what its header says")],
)  # fmt: skip
@pytest.mark.parametrize("with_manifest", [True, False])
def test_shards_whose_headers_disagree_with_their_names(
    hub: HubServer, refused: Callable[..., str], numbers: list[int], counts: list[int], words: str, with_manifest: bool
) -> None:
    files = shards(numbers, counts)
    more = {"nextn.json": manifest(files, "x-00001-of-00002.gguf")} if with_manifest else {}
    hub.repo("e/vil").commit(files | more)
    assert words in refused()


def test_without_a_manifest_names_are_judged_too(hub: HubServer, refused: Callable[..., str]) -> None:
    hub.repo("e/vil").commit({"CON.gguf": BUNDLED})
    assert "not valid on every system" in refused()


@pytest.mark.slow
def test_what_is_good_is_pulled_and_leaves_the_rest_of_the_folder_alone(
    hub: HubServer, run_nextn: Run, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (home / "mine").write_text("x")
    files = {"x.gguf": PLAIN, "mtp-x.gguf": SIDECAR}
    publish(hub, files, "x.gguf", "mtp-x.gguf")
    assert run_nextn("pull", "e/vil", "-o", home).returncode == 0
    assert listing(home) == ["mine", "mtp-x.gguf", "x.gguf"]
    assert {name: (home / name).read_bytes() for name in files} == files
    publish(hub, {"y.gguf": SHELL}, "y.gguf")
    assert run_nextn("pull", "e/vil", "-o", home).returncode == FormatError.exit_code
    assert listing(home) == ["mine", "mtp-x.gguf", "x.gguf"]
    hub.repo("me/x").commit({"x-Q4_K_M.gguf": Q4.read_bytes()})
    assert run_nextn("pull", "me/x", "--variant", "plain", "-o", home).returncode == 0


def test_a_listing_without_hashes_is_enough(hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The manifest has them, too."""
    files = {"x.gguf": PLAIN, "mtp-x.gguf": SIDECAR}
    whole = {**files, "nextn.json": manifest(files, "x.gguf", "mtp-x.gguf")}
    commit = hub.repo("e/vil").commit(whole)
    listed = [{"rfilename": name, "size": len(data)} for name, data in whole.items()]
    body = json.dumps({"id": "e/vil", "sha": commit, "siblings": listed}).encode()
    hub.faults.append(Fault("answer", "^hub/api", times=9, status=200, body=body))
    monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
    monkeypatch.setenv("NEXTN_CACHE", str(tmp_path / "own"))
    pulled = nextn.pull("e/vil", out=tmp_path / "home", variant="mtp")
    assert pulled.entry.read_bytes() == PLAIN
