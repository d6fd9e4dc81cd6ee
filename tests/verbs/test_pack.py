"""A folder to publish: two variants, one set of bytes, names that discovery obeys, sums and manifest that are true."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import schema_check
from faults import Faults
from ggufmaker import make
from splitting import split_gguf

import nextn
from conftest import CHECKPOINT, Q4, ROOT, TRUNKS
from nextn.cli.pack import command as pack_command
from nextn.discovery import llama_cpp_names as hf_rules
from nextn.errors import (
    DonorMismatch,
    FormatError,
    NextnError,
    OutputExists,
    UnsupportedFormat,
    UsageError,
)
from nextn.gguf.files import open_model
from nextn.gguf.types import parse_type_name
from nextn.layouts.pack import MTP, PLAIN
from nextn.publish import manifest, sums
from nextn.publish.packing import pack_up, plan_package

SCHEMAS = ROOT / "src" / "nextn" / "schemas"
Q8 = TRUNKS / "tiny-qwen35-Q8_0.gguf"
EXTRA = {"README.md", "SHA256SUMS", "nextn.json"}


def sha(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def validate(data: object, schema: str) -> None:
    schema_check.validate(data, json.loads((SCHEMAS / f"{schema}.json").read_text()))


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} if folder.exists() else set()


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A trunk in three shards, the first with metadata alone."""
    return split_gguf(Q4, tmp_path_factory.mktemp("set"), 3, tensors_first=False)


@pytest.fixture(scope="module")
def packed(shards: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("packed") / "out"
    return nextn.pack([shards[0]], donor=CHECKPOINT, out=out).folder


@pytest.fixture(scope="module")
def beside(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two quants that share a sidecar."""
    return nextn.pack([Q4, Q8], donor=CHECKPOINT, out=tmp_path_factory.mktemp("beside") / "out", repo="me/tiny").folder


# -- what is in the folder ------------------------------------------------------------------------------------------


def test_a_set_becomes_two_entry_points_on_one_set_of_bytes(shards: list[Path], packed: Path) -> None:
    plain, mtp = "tiny-qwen35-Q4_K_M-{:05d}-of-00003.gguf", "tiny-qwen35-MTP-Q4_K_M-{:05d}-of-00004.gguf"
    wanted = {plain.format(i) for i in (1, 2, 3)} | {mtp.format(i) for i in (1, 2, 3, 4)}
    assert names(packed) == wanted | EXTRA
    for i, source in enumerate(shards, start=1):
        assert (packed / plain.format(i)).samefile(source)
        assert (packed / mtp.format(i)).samefile(source) == (i > 1)
    without, with_block = (nextn.inspect(packed / name.format(1)) for name in (plain, mtp))
    assert (without.shape, without.problems) == ("trunk-only", ())
    assert (with_block.shape, with_block.n_layer_nextn, with_block.problems) == ("bundled", 1, ())


def test_the_sums_are_those_of_the_files(packed: Path, beside: Path) -> None:
    for folder in (packed, beside):
        lines = (folder / "SHA256SUMS").read_text().splitlines()
        table = {name: digest for digest, name in (line.split("  ", 1) for line in lines)}
        assert table == {name: sha(folder / name) for name in names(folder) - {"SHA256SUMS"}}
        tool = shutil.which("sha256sum")
        if tool:
            done = subprocess.run([tool, "-c", "--quiet", "SHA256SUMS"], cwd=folder, capture_output=True, check=False)
            assert done.returncode == 0, done.stderr


def test_the_manifest_names_every_part_of_every_variant(packed: Path) -> None:
    data = json.loads((packed / "nextn.json").read_text())
    validate(data, "manifest")
    files = {file["path"]: file for file in data["files"]}
    assert set(files) == names(packed) - EXTRA
    assert all(file["sha256"] == sha(packed / path) for path, file in files.items())
    assert all(file["size_bytes"] == (packed / path).stat().st_size for path, file in files.items())
    (quant,) = data["quants"]
    parts = {name: [file["part"] for file in one["files"]] for name, one in quant["variants"].items()}
    assert parts == {
        "plain": ["first-shard", "trunk-shard", "trunk-shard"],
        "mtp": ["first-shard", "trunk-shard", "trunk-shard", "block-shard"],
    }
    for one in quant["variants"].values():
        model = open_model(packed / one["entry"])
        assert [file.path.name for file in model.files] == [file["path"] for file in one["files"]]
    stored = {file["sha256"] for file in files.values()}
    assert len(stored) == 5 and len(files) == 7  # the two trunk shards under two names each are stored once


def test_quants_of_one_model_share_the_sidecar_of_the_best_source(beside: Path, tmp_path: Path) -> None:
    assert names(beside) == {Q4.name, Q8.name, "mtp-tiny-qwen35-Q8_0.gguf"} | EXTRA
    alone = {trunk: nextn.attach(trunk, CHECKPOINT, layout="sidecar", out=tmp_path / trunk.stem).sidecar
             for trunk in (Q4, Q8)}  # fmt: skip
    digests = {trunk: sha(sidecar) for trunk, sidecar in alone.items() if sidecar is not None}
    assert sha(beside / "mtp-tiny-qwen35-Q8_0.gguf") == digests[Q8] != digests[Q4]
    data = manifest.decode((beside / "nextn.json").read_bytes(), "nextn.json")
    for quant, trunk in zip(data.quants, (Q4, Q8), strict=True):
        assert [role.name for role in quant.variants[PLAIN].roles] == [trunk.name]
        assert [role.part for role in quant.variants[MTP].roles] == ["trunk", "sidecar"]
        assert quant.variants[MTP].sidecar == "mtp-tiny-qwen35-Q8_0.gguf"


def test_a_ready_sidecar_is_published_as_it_is(shards: list[Path], beside: Path, tmp_path: Path) -> None:
    sidecar = beside / "mtp-tiny-qwen35-Q8_0.gguf"
    result = nextn.pack([shards[0], Q8], sidecar=sidecar, out=tmp_path / "out")
    assert (tmp_path / "out" / sidecar.name).samefile(sidecar)
    assert result.package.plan.bytes_written == sum((result.folder / name).stat().st_size for name in EXTRA)
    assert [quant.layout for quant in result.package.pack.quants] == ["sidecar", "sidecar"]
    with pytest.raises(UsageError, match="bundled file, not a sidecar"):
        bundled = nextn.attach(Q4, CHECKPOINT, layout="bundle", out=tmp_path / "bundled").entry
        nextn.pack([Q8], sidecar=bundled, out=tmp_path / "other")


def test_block_shards_of_sets_with_one_count_are_equal_bytes(shards: list[Path], tmp_path: Path) -> None:
    other = split_gguf(Q8, tmp_path / "set", 3, tensors_first=False)
    result = nextn.pack([shards[0], other[0]], donor=CHECKPOINT, out=tmp_path / "out")
    blocks = [name for name in result.sha256 if name.endswith("-00004-of-00004.gguf")]
    assert len(blocks) == 2 and len({result.sha256[name] for name in blocks}) == 1


def test_a_first_shard_with_tensors_is_said_to_cost(tmp_path: Path) -> None:
    some = split_gguf(Q4, tmp_path / "set", 3)
    result = nextn.pack([some[0]], donor=CHECKPOINT, out=tmp_path / "out", dry_run=True)
    first = open_model(some[0]).files[0]
    n_bytes = sum(first.stored_size(info) for info in first.header.tensors)
    assert any(f"{n_bytes:,} bytes of tensors" in note for note in result.package.plan.notes)


def test_a_trunk_whose_name_says_mtp_gets_another(shards: list[Path], tmp_path: Path) -> None:
    trunk = tmp_path / "tiny-MTP-Q4_K_M.gguf"
    trunk.symlink_to(Q4)
    result = nextn.pack([trunk], donor=CHECKPOINT, out=tmp_path / "out", dry_run=True)
    assert {out.name for out in result.package.plan.outputs} - EXTRA == {
        "tiny-Q4_K_M.gguf", "mtp-tiny-Q8_0.gguf"
    }  # fmt: skip


# -- the plan -------------------------------------------------------------------------------------------------------


def test_a_dry_run_tells_what_a_run_does(shards: list[Path], tmp_path: Path) -> None:
    for models in ([shards[0]], [Q4, Q8]):
        out = tmp_path / f"out{len(models)}"
        dry = nextn.pack(models, donor=CHECKPOINT, out=out, dry_run=True)
        assert not out.exists()
        seen: list[tuple[int, int]] = []
        done = nextn.pack(models, donor=CHECKPOINT, out=out, progress=lambda *step: seen.append(step))  # noqa: B023
        for result in (dry, done):
            validate(result.to_json(), "pack")
        keys = ("bytes_read", "bytes_hashed", "bytes_written", "bytes_linked")
        assert {key: dry.to_json()[key] for key in keys} == {key: done.to_json()[key] for key in keys}
        written = sum(path.stat().st_size for path in out.iterdir() if path.stat().st_nlink == 1)
        assert written == done.package.plan.bytes_written
        assert seen == sorted(seen) and seen[-1][0] == seen[-1][1]


def test_files_with_several_names_are_hashed_once(shards: list[Path], tmp_path: Path) -> None:
    result = nextn.pack([shards[0]], donor=CHECKPOINT, out=tmp_path / "out")
    new = [out.size_bytes for out in result.package.plan.outputs if out.name.endswith(".gguf")
           and (result.folder / out.name).stat().st_nlink == 1]  # fmt: skip
    assert result.bytes_hashed == sum(path.stat().st_size for path in shards) + sum(new)
    other = tmp_path / "other name.gguf"
    other.hardlink_to(shards[1])
    hasher = sums.Hasher()
    assert hasher.digest(other) == hasher.digest(shards[1]) == sha(other)
    assert hasher.bytes_hashed == sums.unique_bytes([other, shards[1]]) == other.stat().st_size


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["eio", "before", "after"])
def test_everything_appears_or_nothing(mode: str, shards: list[Path], packed: Path, tmp_path: Path) -> None:
    from opened import open_donor

    from nextn.layouts.options import PackOptions
    from nextn.layouts.pack import plan_pack

    def run(out: Path, system: Faults) -> None:
        options = PackOptions(out, embd_type=parse_type_name("q4_0"))
        package = plan_package(plan_pack([open_model(shards[0])], open_donor(CHECKPOINT), options))
        pack_up(package, system=system)

    clean = Faults()
    run(tmp_path / "clean", clean)
    whole = {name: sha(packed / name) for name in names(packed)}
    assert {name: sha(tmp_path / "clean" / name) for name in names(tmp_path / "clean")} == whole
    shutil.rmtree(tmp_path / "clean")
    before = [sha(path) for path in shards]
    n_whole = 0
    for k in range(1, len(clean.trace) + 1, 3):
        out = tmp_path / f"{mode}{k}"
        with contextlib.suppress(NextnError, KeyboardInterrupt, OSError):
            run(out, Faults(k, mode))
        found = {name for name in names(out) if not name.startswith(".")}
        assert found in (set(), set(whole)), (k, clean.trace[k - 1][0])
        n_whole += found == set(whole)
    assert [sha(path) for path in shards] == before
    assert n_whole < 8  # only what fails behind the last name leaves a whole folder


# -- names ----------------------------------------------------------------------------------------------------------


def test_the_cards_commands_resolve_to_the_files_they_mean(shards: list[Path], tmp_path: Path) -> None:
    more = split_gguf(Q8, tmp_path / "set", 2, tensors_first=False)
    folder = nextn.pack([shards[0], more[0]], donor=CHECKPOINT, out=tmp_path / "sets", repo="me/x").folder
    single = nextn.pack([Q4, Q8], donor=CHECKPOINT, out=tmp_path / "singles", repo="me/x").folder
    for place, n_wanted in ((folder, 4), (single, 4)):
        card = (place / "README.md").read_text()
        listing = sorted(names(place))
        quants = manifest.decode((place / "nextn.json").read_bytes(), "").quants
        wanted = [quant.variants[name] for quant in quants for name in (MTP, PLAIN)]
        tags = re.findall(r"-hf me/x:(\S+)", card)
        assert [hf_rules.main_files(listing, tag)[0] for tag in tags] == [variant.entry for variant in wanted]
        assert len(tags) == n_wanted
        for tag, variant in zip(tags, wanted, strict=True):
            if variant.sidecar:
                assert hf_rules.sidecars(listing, variant.entry, tag)[0] == variant.sidecar
    for name in names(folder):
        assert hf_rules.mark_of(name) is None


def test_hf_rules() -> None:
    listing = ["UD/x-UD-Q4_K_XL.gguf", "x-Q4_K_M.gguf", "x-Q8_0-00001-of-00002.gguf", "x-Q8_0-00002-of-00002.gguf",
               "mmproj-F16.gguf", "mtp-x-Q4_0.gguf", "mtp-x-Q8_0.gguf", "UD/mtp-y-F16.gguf"]  # fmt: skip
    assert hf_rules.main_files(listing, "Q4_K_M") == ["x-Q4_K_M.gguf"]
    assert hf_rules.main_files(listing, "q8_0") == ["x-Q8_0-00001-of-00002.gguf"]
    assert hf_rules.main_files(listing, "Q5_K_M") == []
    assert hf_rules.main_files(["mtp-x-Q4_K_M.gguf", "only.gguf"], "") == ["only.gguf"]
    assert hf_rules.sidecars(listing, "x-Q4_K_M.gguf") == ["mtp-x-Q4_0.gguf", "mtp-x-Q8_0.gguf"]
    assert hf_rules.sidecars(listing, "x-Q4_K_M.gguf", "Q8_0")[0] == "mtp-x-Q8_0.gguf"
    assert hf_rules.sidecars(listing, "UD/x-UD-Q4_K_XL.gguf")[0] == "UD/mtp-y-F16.gguf"


# -- the card -------------------------------------------------------------------------------------------------------


def verdict(model: str, **more: object) -> dict:
    files = {**dict.fromkeys(("n_tensors", "n_same_bytes", "n_same_file", "n_hashed"), 0), "changed_keys": []}
    return {
        "kind": "verify", "version": 1, "verdict": "passed", "reasons": ["the text is the same"], "notes": [],
        "model": f"/x/{model}", "sidecar": None, "trunk": None, "files": {**files, "problems": []}, "same_text": True,
        "acceptance": {"1": [0.93], "2": [0.9, 0.81]}, "control": {"acceptance": 0.0, "collapsed": True},
        "divergences": [], "engine": {"name": "xllamacpp", "version": "1.2"}, "tps": {"off": 50.4, "on": {"1": 80.6}},
        **more,
    }  # fmt: skip


def test_the_card_says_what_was_verified_and_what_was_not(shards: list[Path], packed: Path, tmp_path: Path) -> None:
    assert "Nothing was verified" in (packed / "README.md").read_text()
    report = tmp_path / "verify.json"
    report.write_text(json.dumps(verdict("tiny-qwen35-MTP-Q4_K_M-00001-of-00004.gguf")))
    more = split_gguf(Q8, tmp_path / "set", 2, tensors_first=False)
    folder = nextn.pack([shards[0], more[0]], donor=CHECKPOINT, out=tmp_path / "out", verified=[report]).folder
    card = (folder / "README.md").read_text()
    row = next(line for line in card.splitlines() if "xllamacpp 1.2" in line)
    assert "| passed | the same | n_max 1: 93 %; n_max 2: 90 % 81 % | 0 % | 50 | 81 (n_max 1) |" in row
    assert "Not verified: Q8_0." in card and "Nothing was verified" not in card


@pytest.mark.parametrize(
    ("text", "error", "words"),
    [
        (json.dumps(verdict("other.gguf")), UsageError, "about 'other.gguf'"),
        (json.dumps(verdict(Q4.name, version=2)), UnsupportedFormat, "version 2"),
        (json.dumps(verdict(Q4.name, verdict="fine")), FormatError, "not what 'nextn verify --json' prints"),
        (
            json.dumps(verdict(Q4.name, acceptance=[])),
            FormatError,
            r"Expected 'object', got 'array' - at '\$.acceptance'",
        ),
        (
            json.dumps(verdict(Q4.name, kind="bench")),
            FormatError,
            "a document of kind 'bench', and verify is needed here",
        ),
        ("{}", FormatError, "name a file that 'nextn verify --json' wrote"),
        ("{", FormatError, "not JSON"),
    ],
)
def test_a_verdict_that_says_nothing_is_refused(
    text: str, error: type[NextnError], words: str, tmp_path: Path
) -> None:
    report = tmp_path / "verify.json"
    report.write_text(text)
    with pytest.raises(error, match=words):
        nextn.pack([Q4], donor=CHECKPOINT, out=tmp_path / "out", verified=[report], dry_run=True)
    assert not (tmp_path / "out").exists()


# -- refusals -------------------------------------------------------------------------------------------------------


def test_refusals_leave_nothing(shards: list[Path], packed: Path, tmp_path: Path) -> None:
    twin = tmp_path / "twin" / "other-Q4_K_M.gguf"
    twin.parent.mkdir()
    twin.symlink_to(Q4)
    bundled = packed / "tiny-qwen35-MTP-Q4_K_M-00001-of-00004.gguf"
    (packed.parent / "side").mkdir(exist_ok=True)
    shutil.copy(nextn.extract(bundled, out=tmp_path / "mtp-x.gguf").entry, packed.parent / "side" / "mtp-x.gguf")
    moe = TRUNKS / "qwen35moe-BF16.gguf"
    out = tmp_path / "out"
    cases: list[tuple[type[NextnError], str, list[Path], dict]] = [
        (UsageError, "publishes a local file", [Q4], {"sidecar": "hf:org/x:mtp-x.gguf"}),
        (UsageError, "either the donor", [Q4], {"donor": CHECKPOINT, "sidecar": CHECKPOINT}),
        (UsageError, "other-Q4_K_M.gguf: two .* quant 'Q4_K_M'", [Q4, twin], {"donor": CHECKPOINT}),
        (UsageError, "sidecar or donor file", [packed.parent / "side" / "mtp-x.gguf"], {"donor": CHECKPOINT}),
        (UsageError, "'bundle' is not a layout", [Q4], {"donor": CHECKPOINT, "layout": "bundle"}),
        (UsageError, "no model to pack", [], {"donor": CHECKPOINT}),
    ]
    cases.append((DonorMismatch, "architecture", [Q4, moe], {"donor": CHECKPOINT}))
    for error, words, models, options in cases:
        with pytest.raises(error, match=words):
            nextn.pack(models, out=out, **options)
        assert not out.exists()


def test_nothing_is_replaced(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "README.md").write_text("mine")
    with pytest.raises(OutputExists, match=r"README\.md"):
        nextn.pack([Q4], donor=CHECKPOINT, out=out)
    assert names(out) == {"README.md"} and (out / "README.md").read_text() == "mine"


def test_the_command_prints_the_folder_or_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    args = [str(Q4), "--from", str(CHECKPOINT), "-o", str(tmp_path / "out")]
    pack_command.main([*args, "--dry-run", "--json"], standalone_mode=False)
    data = json.loads(capsys.readouterr().out)
    validate(data, "pack")
    assert data["dry_run"] and not (tmp_path / "out").exists()
    pack_command.main(args, standalone_mode=False)
    seen = capsys.readouterr()
    assert seen.out == f"{tmp_path / 'out'}\n" and "nothing was verified" in seen.err


# -- formats --------------------------------------------------------------------------------------------------------


def test_sums_escape_as_coreutils_do(tmp_path: Path) -> None:
    odd = "a\\b\nc.gguf"
    (tmp_path / odd).write_bytes(b"x")
    data = sums.encode({odd: sha(tmp_path / odd), "plain.gguf": "0" * 64})
    assert data.splitlines()[0].startswith(b"\\") and data.count(b"\n") == 2
    (tmp_path / "SHA256SUMS").write_bytes(data.splitlines(keepends=True)[0])
    tool = shutil.which("sha256sum")
    if tool:
        assert subprocess.run([tool, "-c", "--status", "SHA256SUMS"], cwd=tmp_path, check=False).returncode == 0


def _good() -> dict:
    role = [{"path": "a.gguf", "part": "trunk"}]
    return {
        "version": 1, "tool": "x", "model": "m", "architecture": "qwen35",
        "files": [{"path": "a.gguf", "size_bytes": 1, "sha256": "0" * 64}],
        "quants": [{"quant": "Q", "layout": "sidecar",
                    "variants": {"plain": {"entry": "a.gguf", "sidecar": None, "files": role}}}],
    }  # fmt: skip


def test_manifest_round_trip() -> None:
    found = manifest.decode(json.dumps(_good()).encode(), "x")
    again = json.loads(found.encode())
    validate(again, "manifest")
    assert manifest.decode(found.encode(), "x") == found
    assert again["quants"] == _good()["quants"] and again["files"] == _good()["files"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda m: m.update(version=0), "'version' is 0"),
        (lambda m: m.pop("files"), "'files'"),
        (lambda m: m["files"][0].update(path="../a.gguf"), "is not valid"),
        (lambda m: m["files"][0].update(path="/a.gguf"), "is not valid"),
        (lambda m: m["files"][0].update(sha256="xyz"), r"files\[0\].sha256"),
        (lambda m: m["files"][0].update(size_bytes=True), "size_bytes"),
        (lambda m: m["files"].append(m["files"][0]), "named twice"),
        (lambda m: m["quants"][0].update(layout="bundle"), "layout"),
        (lambda m: m["quants"][0]["variants"].update(half={}), "half"),
        (lambda m: m["quants"][0]["variants"]["plain"].update(entry="b.gguf"), "not listed"),
        (lambda m: m["quants"][0]["variants"]["plain"].update(sidecar="b.gguf"), "not listed"),
        (lambda m: m["quants"][0]["variants"]["plain"]["files"][0].update(part="head"), "head"),
    ],
)
def test_damaged_manifests_are_refused(change: object, words: str) -> None:
    value = _good()
    change(value)  # type: ignore[operator]
    with pytest.raises(FormatError, match=words):
        manifest.decode(json.dumps(value).encode(), "nextn.json")


def test_odd_manifests_are_one_sentence() -> None:
    for data in (b"", b"[]", b"\xff", b"null", b'{"version": "1"}', b"[" * 100_000):
        with pytest.raises(FormatError):
            manifest.decode(data, "nextn.json")
    with pytest.raises(UnsupportedFormat, match="version 2"):
        manifest.decode(b'{"version": 2}', "nextn.json")


def test_a_name_without_a_quant_is_labelled_by_its_tensors(tmp_path: Path) -> None:
    from nextn.layouts.pack import quant_label

    path = tmp_path / "model.gguf"
    path.write_bytes(make([("general.architecture", "str", "qwen35")], [("a", (32,), 8, bytes(34))]).whole)
    assert quant_label(open_model(path)) == "Q8_0"
