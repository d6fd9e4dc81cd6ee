"""doctor in a shell: every command that it prints is run as it stands, and mends; folders that cannot be written to."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import all_verbs
import pytest
from families import KINDS, trunk_of
from faults import small_disk
from ggufmaker import arch_kvs, block_tensors, make, root_tensors, trunk_tensors
from hub_server import HubServer
from schema_check import validate
from sick import halves_swapped, rewrite
from sicknesses import CASES, EH, ids
from splitting import split_gguf

import nextn
from conftest import CHECKPOINT, Q4, ROOT, TRUNKS, mounted
from nextn.archs.others import LOADS_ONLY, NONE_PUBLISHED, OTHER_USE
from nextn.cli import main
from nextn.diagnosis import examine
from nextn.errors import EXIT_PROBLEMS, StorageError

SCHEMA = json.loads((ROOT / "src" / "nextn" / "schemas" / "doctor.json").read_text())
Done = subprocess.CompletedProcess[str]


@pytest.fixture
def shell(hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Done]:
    """Runs a command in this process, with the words that a shell makes of it."""
    monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
    monkeypatch.setenv("NEXTN_CACHE", str(tmp_path / "own"))

    def run(line: str) -> Done:
        own = f'nextn() {{ printf "%s\\0" "$@"; }}\n{line}'
        split = subprocess.run(["bash", "-c", own], capture_output=True, text=True, check=True, timeout=60)
        ran = all_verbs.run(*split.stdout.split("\0")[:-1])
        assert not split.stderr and not ran.bug, ran.bug
        return Done(ran.argv, ran.code, ran.out, ran.err)

    return run


def quoted(path: Path) -> str:
    return "'" + str(path).replace("'", "'\\''") + "'"


def findings(done: Done) -> list[dict[str, Any]]:
    data = json.loads(done.stdout)
    validate(data, SCHEMA)
    found: list[dict[str, Any]] = data["findings"]
    return found


def command_in(mend: str) -> str:
    """The first command of doctor's in the words about mending."""
    start = mend.index("nextn doctor ")
    for end in (" makes it", " drops the key", ", if llama.cpp", ", a checkpoint or"):
        mend = mend.split(end)[0]
    return mend[start:]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return nextn.attach(Q4, CHECKPOINT, layout="bundle", out=tmp_path_factory.mktemp("bundle")).entry


MORE: dict[str, dict[str, Any]] = {
    "promise": {"lose": lambda name: name.startswith("blk.4.")},
    "bool": {"put": [("qwen35.nextn_predict_layers", "bool", True)]},
    "two": {"drop": ["qwen35.nextn_predict_layers"], "rename": {"blk.4.": "blk.7."}},
}


SINGLE = [(name, "single") for name in (*(name for name, case in CASES.items() if not case.needs), *MORE)]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "layout"), [*SINGLE, ("two", "set"), ("promise", "set"), ("short array", "set")])
def test_the_printed_command_mends(
    name: str, layout: str, bundle: Path, tmp_path: Path, shell: Callable[[str], Done]
) -> None:
    folder = tmp_path / "it's $HOME; a folder"
    how = MORE[name] if name in MORE else CASES[name].how
    path = rewrite(bundle, folder / "sick & tired-Q4_K_M.gguf", **how)
    if layout == "set":
        path = split_gguf(path, folder / "a set", 3)[1]
    before = {each: hashlib.sha256(each.read_bytes()).hexdigest() for each in path.parent.iterdir()}
    seen = shell(f"nextn doctor {quoted(path)} --json")
    assert seen.returncode == EXIT_PROBLEMS
    for finding in findings(seen):
        assert finding["fixable"], finding
        done = shell(f"{command_in(finding['mend'])} -o {quoted(tmp_path / finding['id'])}")
        assert done.returncode == 0 and "nothing is left to fix" in done.stderr, done.stderr
        assert ids(examine(done.stdout.rstrip("\n"))) == []
    assert all(hashlib.sha256(each.read_bytes()).hexdigest() == sha for each, sha in before.items())


@pytest.mark.slow
def test_the_printed_command_names_the_donor_that_was_given(
    bundle: Path, tmp_path: Path, hub: HubServer, shell: Callable[[str], Done]
) -> None:
    hub.add_folder("org/tiny-donor", CHECKPOINT)
    local = tmp_path / "a donor"
    local.symlink_to(CHECKPOINT)
    lost = rewrite(bundle, tmp_path / "lost-Q4_K_M.gguf", lose=lambda name: name == "blk.4.attn_q.weight")
    crossed = rewrite(bundle, tmp_path / "crossed-Q4_K_M.gguf", change={EH: halves_swapped(nextn_rows(bundle))})
    norm = rewrite(bundle, tmp_path / "norm-Q4_K_M.gguf", lose=lambda name: "shared_head_norm" in name)
    for number, donor in enumerate((quoted(local), "hf:org/tiny-donor")):
        for path in (lost, crossed, norm):
            seen = shell(f"nextn doctor {quoted(path)} --from {donor} --json")
            (finding,) = findings(seen)
            assert finding["fixable"], finding
            done = shell(f"{command_in(finding['mend'])} -o {quoted(tmp_path / str(number))}")
            assert done.returncode == 0, (finding["mend"], done.stderr)
            assert ids(examine(done.stdout.rstrip("\n"))) == []


def nextn_rows(bundle: Path) -> int:
    from nextn.gguf.files import open_model

    return open_model(bundle).tensors[EH][1].ne[1]


@pytest.mark.slow
def test_names_and_sidecars_by_their_printed_commands(tmp_path: Path, shell: Callable[[str], Done]) -> None:
    trunk = tmp_path / "my models" / Q4.name
    trunk.parent.mkdir()
    shutil.copy(Q4, trunk)
    made = nextn.attach(trunk, CHECKPOINT, layout="sidecar", out=tmp_path / "well").sidecar
    assert made is not None
    named = trunk.parent / "draft-Q8_0.gguf"
    shutil.copy(made, named)
    deep = trunk.parent / "below" / made.name
    deep.parent.mkdir()
    shutil.copy(made, deep)
    rootless = rewrite(made, trunk.parent / "mtp-rootless-Q8_0.gguf", lose=lambda name: not name.startswith("blk."))
    marked = rewrite(made, trunk.parent / "mtp-marked-Q8_0.gguf", put=[("qwen35.nextn_shared_target_tensors", "bool", True)])  # fmt: skip  # noqa: E501
    for path, more in ((named, ""), (deep, f"--trunk {quoted(trunk)}"), (marked, ""), (rootless, f"--trunk {quoted(trunk)}")):  # fmt: skip  # noqa: E501
        seen = shell(f"nextn doctor {quoted(path)} {more} --json")
        (finding,) = findings(seen)
        done = shell(command_in(finding["mend"]))
        assert done.returncode == 0, (finding["mend"], done.stderr)
        assert shell(f"nextn doctor {quoted(Path(done.stdout.strip()))}").returncode == 0
        Path(done.stdout.strip()).unlink()


# -- folders ----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_folder_that_cannot_be_written_to(bundle: Path, tmp_path: Path, shell: Callable[[str], Done]) -> None:
    with small_disk(tmp_path / "disk", "16m") as disk:
        disk = mounted(disk)
        single = rewrite(bundle, disk / "sick-Q4_K_M.gguf", drop=["qwen35.nextn_predict_layers"])
        shard = split_gguf(single, disk / "set", 3)[0]
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        for path in (single, shard):
            assert shell(f"nextn doctor {quoted(path)}").returncode == EXIT_PROBLEMS
            for more in ("", "--dry-run", "--json"):
                done = shell(f"nextn doctor {quoted(path)} --fix --quiet {more}")
                assert done.returncode == StorageError.exit_code, done
                assert (json.loads(done.stdout)["error"] == "StorageError") if more == "--json" else done.stdout == ""
                assert done.stderr.count("\n") == 1 and "read-only; choose another -o" in done.stderr
            elsewhere = shell(f"nextn doctor {quoted(path)} --fix -o {quoted(tmp_path / 'out' / path.parent.name)}")
            assert elsewhere.returncode == 0, elsewhere.stderr


# -- no false alarms --------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("kind", [*KINDS, "qwen35"])
@pytest.mark.parametrize("block_type", [None, "q4_0", "q8_0", "bf16"])
def test_healthy_models_have_no_findings(
    kind: str, block_type: str | None, family: Callable[[str], Path], tmp_path: Path
) -> None:
    trunk = tmp_path / f"{kind}-Q8_0.gguf"
    trunk.symlink_to(Q4 if kind == "qwen35" else trunk_of(kind))
    donor = CHECKPOINT if kind == "qwen35" else family("deepseek4-plain" if kind == "deepseek4" else kind)
    for layout in ("sidecar",) if kind == "deepseek4" else ("sidecar", "bundle", "shards"):
        made = nextn.attach(trunk, donor, layout=layout, type=block_type)
        entry = made.sidecar or made.entry
        for more in ({}, {"donor": donor}, {"trunk": trunk} if made.sidecar else {"donor": entry}):
            seen = nextn.doctor(entry, **more).before
            assert seen.findings == (), (layout, more, [each.what for each in seen.findings])
    assert [each.id for each in examine(trunk).findings] == ["no-block-attached"]


@pytest.mark.parametrize("arch", [*LOADS_ONLY, *OTHER_USE, "llama", "gemma3", "qwen3", "gpt-oss", "unheard-of"])
@pytest.mark.parametrize("block", [False, True])
def test_models_of_which_no_engine_drafts(
    arch: str, block: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(*args: object) -> tuple[int, str]:
        code = main([str(arg) for arg in args])
        return code, capsys.readouterr().out

    def only_finding(path: Path, wanted: int) -> dict[str, Any]:
        code, text = run("doctor", path, "--json")
        assert code == wanted, text
        validate(json.loads(text), SCHEMA)
        (finding,) = json.loads(text)["findings"]
        assert isinstance(finding, dict)
        return finding

    path = tmp_path / "model.gguf"
    tensors = [*root_tensors(), *trunk_tensors(3), *(block_tensors(3) if block else [])]
    path.write_bytes(make(arch_kvs(3 + block, int(block) or None, arch=arch), tensors).whole)
    refused, other = block and arch in NONE_PUBLISHED, block and arch not in OTHER_USE
    code = EXIT_PROBLEMS if refused else 0
    found = only_finding(path, code)
    assert found["severity"] == ("error" if refused else "note")
    assert found["id"] == ("block-without-engine" if other else "no-block-published")
    assert run("doctor", path, "--fix") == (code, "") and list(tmp_path.glob("*fixed*")) == []
    if other:
        assert found["mend"] == f"nextn detach {path} removes it"
        detached, text = run("detach", path)
        assert detached == 0 and only_finding(Path(text.strip()), 0)["id"] == "no-block-published"


@pytest.mark.parametrize("path", sorted(TRUNKS.rglob("*-00001-of-*.gguf")), ids=lambda path: path.parent.name)
def test_healthy_sets_have_no_findings(path: Path, tmp_path: Path, shell: Callable[[str], Done]) -> None:
    done = shell(f"nextn doctor {quoted(path)} --json")
    assert done.returncode == 0 and [each["id"] for each in findings(done)] == ["no-block-attached"]
