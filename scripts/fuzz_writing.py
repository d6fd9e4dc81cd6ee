"""Fuzzing of what changes or fetches files: sets, changes in place, journals of interrupted ones, repositories."""

from __future__ import annotations

import hashlib
import json
import shutil
import struct
from pathlib import Path
from typing import Any

import mutants
from faults import KILLED, Faults, in_child
from hub_server import Fault

import nextn
from fuzz_findings import Bench
from nextn.donors.open_donor import open_block
from nextn.gguf.files import open_model
from nextn.layouts.attach import plan_attach
from nextn.layouts.in_place_detach import plan_detach
from nextn.layouts.options import AttachOptions
from nextn.verbs.in_place import room_for
from nextn.writing.journal import MAGIC, SPARE_BYTES, journal_name
from nextn.writing.result import execute

YES = ("--layout", "in-place", "--yes")


# -- sets --------------------------------------------------------------------------------------------------------------


def sets(bench: Bench) -> None:
    """A set with one sick shard, or a recipe that somebody wrote, through explode and assemble."""
    dice = bench.dice
    small = bench.small()
    while not bench.is_over:
        (kind, path, donor, trunk), _, arch = dice.choice(small)
        place = bench.place()
        whole = place / "whole"
        n = dice.choice((1, 3, 9, 20))
        nextn.explode(path, out=place / "set", max_tensors=n, metadata_first=dice.random() < 0.3)
        nextn.explode(path, out=whole, max_tensors=n)
        shards = sorted((place / "set").iterdir())
        shard = shards[0] if dice.random() < 0.4 else dice.choice(shards)
        said, data = _sick_shard(bench, shard, arch)
        title, files = f"{kind} {path.name}, {shard.name}: {said}", {".gguf": data}
        picked = f".*{dice.choice(('attn', 'ffn', 'nextn', 'norm', ''))}.*"
        for argv in (
            ("explode", place / "set", "-o", place / "out" / "e", "--max-tensors", dice.choice((1, 2, 50))),
            ("explode", shard, "-o", place / "out" / "e2", "--max-size", "100K"),
            ("assemble", place / "set", "-o", place / "out" / "a.gguf"),
            ("assemble", *shards, "-o", place / "out" / "b.gguf"),
            ("assemble", place / "set", "-o", place / "out" / "c"),
            ("assemble", whole, "--pick", f"{picked}={place / 'set'}", "-o", place / "out" / "d"),
            ("assemble", place / "set", "--pick", f"{picked}={whole}", "-o", place / "out" / "f.gguf"),
            ("attach", place / "set", "--from", donor, "-o", place / "out" / "g"),
            ("detach", place / "set", "-o", place / "out" / "h"),
        ):
            if dice.random() < 0.6:
                bench.found.run(argv, place, title, files)
        _recipe(bench, place, whole, trunk)


def _sick_shard(bench: Bench, shard: Path, arch: str) -> tuple[str, bytes]:
    dice, data = bench.dice, shard.read_bytes()
    how = dice.random()
    if how < 0.7:
        parts = mutants.Parts.of(shard)
        for key in ("split.no", "split.count", "split.tensors.count"):
            if dice.random() < 0.2:
                parts = parts.put(key, *dice.choice(mutants.strange_values()))
        if parts.tensors:
            said, data = mutants.random_mutant(parts, arch, dice)
        else:
            said, data = "keys of the split", parts.encode()
    elif how < 0.8:
        said, data = "cut", data[: dice.randrange(len(data))]
    elif how < 0.9:
        said, data = "longer", data + bytes(dice.randrange(1, 5000))
    else:
        said = "gone"
    shard.unlink()
    if said == "gone":
        if dice.random() < 0.5:
            shard.symlink_to(shard.name)
            said = "a link to itself"
    else:
        shard.write_bytes(data)
    return said, data


def _recipe(bench: Bench, place: Path, whole: Path, trunk: Path) -> None:
    tensors = [{"name": "output_norm.weight", "type": "f32", "file": str(trunk)}]
    recipe = {"kind": "recipe", "version": 1, "tool": "x", "base": [str(whole)],
              "picks": [{"pattern": "output.*", "source": [str(trunk)]}], "tensors": tensors}  # fmt: skip
    said, make = bench.dice.choice(list(mutants.config_mutants(json.dumps(recipe))))
    (place / "r.recipe.json").write_text(text := make(), "utf-8", "surrogatepass")
    argv = ("assemble", "--recipe", place / "r.recipe.json", "-o", place / "out" / "recipe")
    bench.found.run(argv, place, f"recipe: {said}", {".json": text.encode("utf-8", "surrogatepass")})


# -- in place ----------------------------------------------------------------------------------------------------------


def in_place(bench: Bench) -> None:
    """Attach and detach really, on spoilt files and with spoilt donors; what is detached is what was attached to."""
    small = bench.small()
    while not bench.is_over:
        (kind, path, donor, trunk), parts, arch = bench.dice.choice(small)
        said, data = mutants.random_mutant(parts, arch, bench.dice)
        if bench.dice.random() < 0.2:
            data += bytes(bench.dice.randrange(1, 200_000))
            said += ", bytes behind it"
        title = f"{kind} {path.name}: {said}"
        place = bench.place()
        spoilt = place / path.name
        spoilt.write_bytes(data)
        _there_and_back(bench, spoilt, donor, title, data)
        _there_and_back(bench, spoilt, None, title, data)
        model = Path(shutil.copy(trunk, place / f"copy-{trunk.name}"))
        _there_and_back(bench, model, spoilt, title, data)


def _there_and_back(bench: Bench, model: Path, donor: Path | None, title: str, data: bytes) -> None:
    """Attach `donor` in place and detach it again; without one, detach what is there."""
    before, files, found = model.read_bytes(), {".gguf": data}, bench.found
    place = model.parent
    if donor is not None:
        ran = found.run(("attach", model, "--from", donor, *YES), place, title, files, changes=[model])
        if ran.code:
            return
        back = found.run(("detach", model, "--in-place", "--yes"), place, title, files, changes=[model])
        if back.code or model.read_bytes() != before:
            found.note("detach in place does not give back what attach was given", back, title, files)
    else:
        ran = found.run(("detach", model, "--in-place", "--yes"), place, title, files, changes=[model])
        if not ran.code:
            again = found.run(("inspect", model, "--json"), place, title, files)
            if again.code not in (0, 5):
                found.note(f"inspect {again.code} after a detach in place", again, title, files)
    model.write_bytes(before)


# -- journals ----------------------------------------------------------------------------------------------------------


def journals(bench: Bench) -> None:
    """A file that a killed change has left, with a journal that somebody has written to."""
    dice, folder = bench.dice, bench.folder / "hot"
    folder.mkdir(exist_ok=True)
    states = [*_hot(bench, folder, "attach"), *_hot(bench, folder, "detach")]
    model = folder / "m.gguf"
    journal = folder / journal_name(model.name)
    (folder / "bystander.gguf").write_bytes(b"GGUF" + bytes(1000))
    while not bench.is_over:
        bench.found.n_files += 1
        content, record = dice.choice(states)
        said, spoilt = _sick_journal(bench, record)
        for argv in (
            ("inspect", model), ("doctor", model), ("serve", model, "--print"), ("recover", model, "--dry-run"),
            ("recover", dice.choice((model, folder))), ("detach", model, "--in-place", "--yes"),
        ):  # fmt: skip
            _put(model, content)
            journal.unlink(missing_ok=True)
            journal.write_bytes(spoilt)
            if dice.random() < 0.1:
                _put(model, content[: dice.randrange(len(content))])
            # What a journal describes is what the file becomes, also when it cannot become all of it.
            may = [model, journal] if argv[0] in ("recover", "detach") and "--dry-run" not in argv else []
            files = {".gguf": content, ".journal": spoilt}
            bench.found.run(argv, folder, said, files, changes=may, even_if_refused=True)
            if not model.exists():
                raise AssertionError(f"{said}: {argv} removed the model")


def _put(model: Path, content: bytes) -> None:
    """The same file, by its inode, with other bytes."""
    with model.open("r+b") as file:
        file.truncate(0)
        file.write(content)


def _hot(bench: Bench, folder: Path, verb: str) -> list[tuple[bytes, bytes]]:
    """(file, journal) of a change that was killed at every call, all of one inode."""
    _, _, donor, trunk = bench.models[0]
    model = folder / "m.gguf"
    if not model.exists():
        model.write_bytes(b"")
    _put(model, trunk.read_bytes())
    if verb == "detach":
        nextn.attach(model, donor, layout="in-place")
    start, out = model.read_bytes(), []
    for k in range(bench.dice.randrange(1, 4), 90, 3):
        _put(model, start)

        def work(k: int = k) -> None:
            opened = open_model(model)
            if verb == "detach":
                execute(plan_detach(opened, room_for(model)), system=Faults(k, "torn-kill"))
                return
            with open_block(donor, None) as source:
                block, _ = source.to_write("keep")
                options = AttachOptions("in-place", room=room_for(model))
                execute(plan_attach(opened, block, options), system=Faults(k, "torn-kill"))

        code = in_child(work)
        journal = folder / journal_name(model.name)
        if journal.exists():
            out.append((model.read_bytes(), journal.read_bytes()))
            journal.unlink()
        for left in folder.glob(".*.nextn-tmp"):
            left.unlink()
        if code != KILLED:
            break
    assert len(out) > 2
    return out


def _sick_journal(bench: Bench, record: bytes) -> tuple[str, bytes]:
    dice = bench.dice
    if dice.random() < 0.3:
        data = bytearray(record[:-SPARE_BYTES // 2])
        for _ in range(dice.randrange(1, 5)):
            data[dice.randrange(len(data))] = dice.randrange(256)
        return "bytes of the journal", bytes(data[: dice.choice((len(data), dice.randrange(len(data))))])
    (length,) = struct.unpack_from("<Q", record, len(MAGIC))
    payload = record[16 : 16 + length]
    (n_text,) = struct.unpack_from("<Q", payload)
    text = payload[8 : 8 + n_text].decode()
    said, make = dice.choice(list(mutants.config_mutants(text)))
    if "inode" in said and dice.random() < 0.9:
        said, make = "a journal as it was", lambda: text
    changed = make().encode("utf-8", "surrogatepass")
    sealed = _record(struct.pack("<Q", len(changed)) + changed + payload[8 + n_text :])
    rest = record[16 + length + 32 :]
    if dice.random() < 0.3:
        note = {"file": 0, "room": "shifting", "tail_saved": False, "size_bytes": 1000, "spans": [[0, 4096]]}
        more, make = dice.choice(list(mutants.config_mutants(json.dumps(note))))
        said, rest = f"{said}, a state: {more}", _record(make().encode("utf-8", "surrogatepass")) + bytes(SPARE_BYTES)
    return f"journal: {said}", MAGIC + sealed + rest


def _record(payload: bytes) -> bytes:
    return struct.pack("<Q", len(payload)) + payload + hashlib.sha256(payload).digest()


# -- pull --------------------------------------------------------------------------------------------------------------

NAMES = (
    "m.gguf", ".bash_profile", "sitecustomize.py", "../m.gguf", "a/../../m.gguf", "/etc/m.gguf", "x\x1b[31m.gguf",
    "a\nb.gguf", "NUL.gguf", "\u202efugg.gguf", "m.gguf/", "mtp-m.gguf", "a b.gguf", "-rf.gguf", "m.GGUF",
)  # fmt: skip


def pull(bench: Bench) -> None:
    """A repository with a manifest, names, files or answers of the Hub's that somebody has made up."""
    dice, packed = bench.dice, bench.folder / "packed"
    _, _, donor, trunk = bench.models[-1]
    if not packed.exists():
        nextn.pack([trunk], donor=donor, out=packed)
    good = {one.name: one.read_bytes() for one in packed.iterdir()}
    ggufs = {name: mutants.Parts.of(packed / name) for name in good if name.endswith(".gguf")}
    while not bench.is_over:
        files, faults, said = dict(good), [], []
        for _ in range(dice.choice((1, 1, 2))):
            how = dice.random()
            if how < 0.35:
                said.append(_sick_manifest(bench, files))
            elif how < 0.55:
                name = dice.choice(sorted(ggufs))
                what, files[name] = mutants.random_mutant(ggufs[name], "qwen35", dice)
                said.append(f"{name}: {what}")
                _reseal(files)
            elif how < 0.7:
                old, new = dice.choice(sorted(ggufs)), dice.choice(NAMES)
                if old in files:
                    files = {new if name == old else name: data for name, data in files.items()}
                    named = json.dumps(old).encode(), json.dumps(new).encode()
                    if "nextn.json" in files:
                        files["nextn.json"] = files["nextn.json"].replace(*named)
                    said.append(f"{old} as {new!r}")
            elif how < 0.8:
                files.pop("nextn.json", None)
                said.append("no manifest")
            else:
                faults.append(_answer(bench, files))
                said.append("an answer of the Hub's")
        bench.hub.repos.clear()
        bench.hub.reset()
        commit = bench.hub.repo("e/vil").commit(files)
        bench.hub.faults[:] = [fault for make in faults for fault in make(commit)]
        place = bench.place()
        home = place / "home"
        more = ["--dry-run"] if dice.random() < 0.2 else []
        argv = ("pull", "e/vil", "--variant", dice.choice(("mtp", "plain")), "-o", home, *more)
        kept = {f"-{number}.bin": data for number, (_, data) in enumerate(sorted(files.items()))}
        title = f"{'; '.join(said)}; {sorted(files)}"
        ran = bench.found.run(argv, place, title, kept)
        wrong = [one.name for one in home.rglob("*") if ran.code == 0 and not _is_wanted(one)]
        if wrong:
            bench.found.note(f"pull wrote {wrong[0]!r}", ran, title, kept)
        bench.hub.reset()
        shutil.rmtree(bench.folder / "cache", ignore_errors=True)


def _is_wanted(path: Path) -> bool:
    """Whether a file may come out of a pull: a GGUF, or a companion that nextn packs."""
    if path.is_dir():
        return True
    if path.is_symlink() or path.name.startswith("."):
        return False
    return path.read_bytes()[:4] == b"GGUF" if path.suffix == ".gguf" else path.name in ("nextn.json", "README.md")


def _sick_manifest(bench: Bench, files: dict[str, bytes]) -> str:
    if "nextn.json" not in files:
        return ""
    try:
        said, make = bench.dice.choice(list(mutants.config_mutants(files["nextn.json"].decode())))
    except (ValueError, IndexError):
        return ""
    files["nextn.json"] = make().encode("utf-8", "surrogatepass")
    return f"manifest: {said}"


def _reseal(files: dict[str, bytes]) -> None:
    """Let the manifest know sizes and hashes of the files as they are."""
    try:
        value = json.loads(files["nextn.json"])
        for one in value["files"]:
            data = files[one["path"]]
            one |= {"size_bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    except (ValueError, KeyError, TypeError):
        return
    files["nextn.json"] = json.dumps(value).encode()


def _answer(bench: Bench, files: dict[str, bytes]) -> Any:
    """A maker, from the commit, of what the Hub says instead of the truth about the repository."""

    def make(commit: str) -> list[Fault]:
        siblings = [{"rfilename": name, "size": len(data), "blobId": "0" * 40,
                     "lfs": {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 134}}
                    for name, data in files.items()]  # fmt: skip
        info = {"_id": "0" * 24, "id": "e/vil", "modelId": "e/vil", "sha": commit, "private": False, "gated": False,
                "tags": [], "downloads": 0, "likes": 0, "siblings": siblings}  # fmt: skip
        _, changed = bench.dice.choice(list(mutants.config_mutants(json.dumps(info))))
        body = changed().encode("utf-8", "surrogatepass")
        return [Fault("answer", "hub/api/models/", status=200, body=body, times=9,
                      headers={"Content-Type": "application/json"})]  # fmt: skip

    return make
