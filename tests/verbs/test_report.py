"""The report: what it reads, that nothing of a model gets out of its place, and that a browser shows the page."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mutants import UGLY

import nextn
from conftest import CHECKPOINT, DATA, Q4, need
from nextn import schemas
from nextn.cli import main
from nextn.errors import FormatError, UsageError
from nextn.results.page import contexts, page
from nextn.results.section import Section, TextTable
from nextn.results.sections import KINDS, read_section, read_sections

EVIL = "</script><script>alert(1)</script>\"'&" + UGLY
LINEAR = {
    "fixed_bytes": 1_000_000, "kv": [{"bytes_per_cell": 512, "max_cells": None}],
    "recurrent_bytes_per_copy": 1000, "recurrent_copies": 4, "compute_fixed_bytes": 0, "compute_bytes_per_token": 1.0,
}  # fmt: skip


def sections(name: str = EVIL) -> list[Section]:
    plan = {"kind": "memory", "n_ctx": 2048, "n_ctx_train": 4096, "n_parallel": 1,
            "setups": [{"title": name, "linear": [LINEAR]}]}  # fmt: skip
    other = [
        {"kind": "acceptance", "series": {name: [0.9, 0.8]}},
        {"kind": "speed", "bars": [{"name": name, "median": 9.0, "low": 8.0, "high": 10.0}]},
        {"kind": "curve", "series": {name: [{"n_tokens": 1, "cost": 1.0}, {"n_tokens": 2, "cost": 1.4}]},
         "pays": [{"n_tokens": 1, "cost": 1.0}, {"n_tokens": 2, "cost": 1.8}]},
        {"kind": "bytes", "files": [{"name": name, "ranges": [{"what": "linked", "size_bytes": 5}]}]},
    ]
    return [Section(name, (name,), (TextTable(name, (name,), ((name,),)),), (plan, *other), (name,))]


def test_names_are_escaped() -> None:
    text = page(sections()).decode()
    assert "<script>alert" not in text and "&lt;script&gt;alert(1)" in text
    assert "default-src 'none'" in text and not re.search(r"(?:src|href)=", text)


def test_results_of_verbs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = []
    for i, call in enumerate(
        (["inspect", Q4], ["attach", Q4, "--from", CHECKPOINT, "--layout", "bundle", "--dry-run"])
    ):
        assert main([*map(str, call), "--json"]) == 0
        names.append(str(tmp_path / f"{i}.json"))
        Path(names[-1]).write_text(capsys.readouterr().out)
    made = read_section(Path(names[1])).plots[0]["files"][0]["ranges"]
    written = json.loads(Path(names[1]).read_text())["bytes_written"]
    assert sum(part["size_bytes"] for part in made) == written and {p["what"] for p in made} == {
        "new",
        "copied",
        "block",
    }
    assert main(["report", *names]) == 0 and "trunk-only" in capsys.readouterr().out
    out = tmp_path / "page.html"
    assert main(["report", *names, "-o", str(out)]) == 0 and out.stat().st_size > 200_000
    assert main(["report", *names, "-o", str(out)]) == 20


@pytest.mark.parametrize("text", ["no json", "[]", '{"version": 2}', '{"version": 1, "kind": "manifest"}'])
def test_what_is_no_result(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(FormatError):
        nextn.report([tmp_path / "x.json"])


def test_sections_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(DATA / "samples" / "plan.json"), "--json"]) == 0
    (section,) = json.loads(capsys.readouterr().out)["sections"]
    assert section["title"] == "Memory: tiny-qwen35-Q4_K_M.gguf"
    assert section["tables"][0]["head"][:2] == ["setup", "disk"]


def test_every_kind_that_is_read_has_its_section() -> None:
    from nextn.results.sections import _MAKERS

    assert set(KINDS) == set(_MAKERS) and set(KINDS) == set(schemas.KINDS)


@pytest.mark.slow
def test_a_browser_draws_it(tmp_path: Path) -> None:
    chromium = shutil.which("chromium")
    need("chromium", chromium is not None)
    (tmp_path / "page.html").write_bytes(page(sections()))
    flags = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    flags += "--disable-component-update --disable-sync --enable-logging=stderr --dump-dom"
    done = subprocess.run(
        [str(chromium), *flags.split(), f"--user-data-dir={tmp_path / 'profile'}", (tmp_path / "page.html").as_uri()],
        capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip
    assert "2,048 tokens" in done.stdout and "2.05 MB" in done.stdout  # 1,000,000 + 512 * 2048 + 4000 + 2048
    assert "CONSOLE" not in done.stderr, done.stderr


@contextlib.contextmanager
def browser(folder: Path) -> Iterator[Any]:
    need("chromium", shutil.which("chromium") is not None and shutil.which("chromedriver") is not None)
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = str(shutil.which("chromium"))
    for flag in ("headless", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "window-size=800,900"):
        options.add_argument(f"--{flag}")
    options.add_argument(f"--user-data-dir={folder / 'profile'}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
    try:
        yield driver
    finally:
        driver.quit()


def every_document(folder: Path) -> Path:
    """A folder with a document of every verb, as they were once written, and other files."""
    folder.mkdir()
    for path in [*(DATA / "documents").glob("*.json"), *(DATA / "samples").glob("*.json")]:
        try:
            read_section(path)
        except FormatError:  # written before documents had kinds
            continue
        shutil.copy(path, folder / f"{path.parent.name}-{path.name}")
    made = {
        "cache": nextn.cache(), "doctor": nextn.doctor(Q4), "inspect": nextn.inspect(Q4),
        "attach": nextn.attach(Q4, CHECKPOINT, out=folder, dry_run=True),
        "pack": nextn.pack([Q4], donor=CHECKPOINT, out=folder / "out", dry_run=True),
    }  # fmt: skip
    for name, result in made.items():
        (folder / f"{name}.json").write_text(json.dumps(result.to_json()))
    (folder / "config.json").write_text("{}")
    (folder / "note.txt").write_text("not a document")
    return folder


OFF_SCREEN = """return Array.from(document.querySelectorAll('main *')).filter(
  (e) => e.getBoundingClientRect().right > document.documentElement.clientWidth + 1 || e.scrollWidth > e.clientWidth + 1
  && getComputedStyle(e).overflowX !== 'visible').map((e) => e.outerHTML.slice(0, 200))"""


@pytest.mark.slow
@pytest.mark.parametrize("width", [1200, 360])
def test_nothing_is_off_screen(width: int, tmp_path: Path) -> None:
    out = tmp_path / "page.html"
    nextn.report([every_document(tmp_path / "results")], out=out)
    with browser(tmp_path) as driver:
        driver.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 800},
        )
        driver.get(out.as_uri())
        assert driver.execute_script("return document.documentElement.scrollWidth") <= width
        assert driver.execute_script(OFF_SCREEN) == []
        assert driver.get_log("browser") == []
        first = driver.find_element("id", "answer")
        assert first.location["y"] + first.size["height"] < 900 and first.text


@pytest.mark.slow
def test_the_slider_and_the_table_agree(tmp_path: Path) -> None:
    out = tmp_path / "page.html"
    nextn.report([DATA / "samples" / "plan.json"], out=out)
    with browser(tmp_path) as driver:
        driver.get(out.as_uri())
        tables = driver.execute_script(
            "return Array.from(document.querySelectorAll('table'), (t) => Array.from(t.tBodies[0].rows, "
            "(r) => Array.from(r.cells, (c) => c.textContent)))"
        )
        heads = driver.execute_script(
            "return Array.from(document.querySelectorAll('table'), (t) => Array.from(t.tHead.rows[0].cells, "
            "(c) => c.textContent))"
        )
    by_slider, by_plan = tables[:2]
    assert heads[0][1:] == heads[1][2:7]
    figures = {row[0]: row[2:7] for row in by_plan if "measured" not in row[0] and row[2]}
    assert by_slider and {row[0]: row[1:] for row in by_slider} == figures


def test_what_a_folder_holds_besides_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "results"
    folder.mkdir()
    (folder / "plan.json").write_text((DATA / "samples" / "plan.json").read_text())
    assert main(["verify", str(tmp_path / "nothing.gguf"), "--json"]) == 22
    (folder / "verify.json").write_text(capsys.readouterr().out)
    later = '{"kind": "plan", "version": 2}'
    others = {"broken": '{"kind":', "empty": "", "foreign": '{"results": []}', "later": later}
    for name, text in others.items():
        (folder / f"{name}.json").write_text(text)
    (folder / "dead.json").symlink_to("nowhere")
    (folder / "folder.json").mkdir()
    (folder / "notes.txt").write_text("not JSON")
    assert main(["report", str(folder), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [one["title"] for one in found["sections"]] == ["Memory: tiny-qwen35-Q4_K_M.gguf", "Failed: nextn verify"]
    assert [Path(one.partition(": ")[0]).stem for one in found["left_out"]] == sorted([*others, "dead", "folder"])
    for i in range(20):
        (folder / f"more-{i}.json").write_text("[]")
    assert main(["report", str(folder), "-o", str(tmp_path / "page.html")]) == 0
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 11 and all(line.startswith("left out: ") for line in said)
    assert said[-1].endswith("16 more files")
    (folder / "plan.json").unlink()
    (folder / "verify.json").unlink()
    with pytest.raises(UsageError, match=r"there is no document in this folder .* \(.*broken.json: this is not JSON"):
        nextn.report([folder])


def test_names_are_shown_whole(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = "A-very-long-name-" * 12 + "Q4_K_M.gguf"
    (tmp_path / name).symlink_to(Q4)
    (tmp_path / "x.json").write_text(json.dumps(nextn.scan([tmp_path], only=True, offline=True).to_json()))
    assert main(["report", str(tmp_path / "x.json")]) == 0
    cells = [line.split("│")[1].strip() for line in capsys.readouterr().out.splitlines() if line.startswith("│")]
    assert name in "".join(cells)


def test_the_page_opens_with_the_answer(tmp_path: Path) -> None:
    folder = tmp_path / "results"
    folder.mkdir()
    (folder / "bench.json").write_text((DATA / "samples" / "bench.json").read_text())
    (folder / "inspect.json").write_text(json.dumps(nextn.inspect(Q4).to_json()))
    (folder / "other.json").write_text('{"version": 7}')
    os.utime(folder / "bench.json", (1e9, 1e9))
    os.utime(folder / "inspect.json", (1e9 + 86400, 1e9 + 86400))
    data = json.loads((DATA / "samples" / "bench.json").read_text())
    found = nextn.report([folder]).to_json()
    assert found["badge"] == data["verdict"]["word"].replace("_", " ").upper()
    assert found["answer"].endswith(data["verdict"]["sentence"])
    machine = data["machine"]
    assert found["facts"] == {
        "date": "2001-09-09 to 2001-09-10", "nextn": nextn.__version__,
        "engine": f"{data['engine']['name']} {data['engine']['version']}",
        "machine": f"{machine['cpu']}, {machine['n_cpus']} CPUs, {machine['system']}",
    }  # fmt: skip
    text = page(read_sections([folder])).decode()
    start = text.index("<main>")
    assert text.index(found["badge"], start) < text.index(data["verdict"]["sentence"], start) < text.index("<section>")


def test_of_several_verdicts_the_heaviest_and_worst_counts() -> None:
    from nextn.results.answer import answer_of

    some = [
        Section("Speed: x", ("1.3 times as fast",), badge="FASTER", tone="good", weight=2),
        Section("Verified: y", ("PASSED", "the same"), badge="PASSED", tone="good", weight=3),
        Section("Verified: x", ("FAILED", "text differs"), badge="FAILED", tone="bad", weight=3),
    ]
    found = answer_of(some)
    assert (found.badge, found.tone, found.line) == ("FAILED", "bad", "Verified: x: text differs")
    assert answer_of(some[:2]).line == "Verified: y: the same"
    assert (answer_of([]).badge, answer_of([]).line) == ("RESULTS", "")


def test_a_folder_without_a_document(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text("{}")
    with pytest.raises(UsageError, match="no document in this folder"):
        nextn.report([tmp_path])


@pytest.mark.slow
def test_the_slider_by_keyboard_and_on_a_phone(tmp_path: Path) -> None:
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys

    (tmp_path / "page.html").write_bytes(page(sections()))
    with browser(tmp_path) as driver:
        driver.get((tmp_path / "page.html").as_uri())
        slider = driver.find_element(By.CSS_SELECTOR, "input[type=range]")
        said, table = driver.find_element(By.TAG_NAME, "output"), driver.find_element(By.CSS_SELECTOR, "tbody")
        seen = {}
        slider.send_keys(Keys.HOME)
        for _ in contexts(2048, 4096):
            seen[said.text] = table.text.split()[-2:]
            slider.send_keys(Keys.ARROW_RIGHT)
        totals = {n: 1_000_000 + 512 * n + 4000 + n for n in (512, 1024, 2048, 4096)}
        assert list(seen) == [f"{n:,} tokens" for n in totals]
        assert [float(number) for number, _ in seen.values()] == [float(f"{n / 1e6:.3g}") for n in totals.values()]
        driver.find_element(By.ID, "theme").click()
        assert driver.find_element(By.TAG_NAME, "html").get_attribute("data-theme") in ("dark", "light")
        driver.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride", {"width": 360, "height": 740, "deviceScaleFactor": 2, "mobile": True}
        )
        driver.refresh()
        assert driver.execute_script("return document.documentElement.scrollWidth") <= 360
        assert driver.execute_script("return performance.getEntriesByType('resource').length") == 0
        assert driver.get_log("browser") == []


def test_sequences_share_a_context_that_is_rounded_for_each(tmp_path: Path) -> None:
    chromium = shutil.which("chromium")
    need("chromium", chromium is not None)
    plot = {"kind": "memory", "n_ctx": 1000, "n_ctx_train": 1000, "n_parallel": 3,
            "setups": [{"title": "one", "linear": [LINEAR]}]}  # fmt: skip
    (tmp_path / "page.html").write_bytes(page([Section("s", (), (), (plot,))]))
    flags = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --dump-dom"
    done = subprocess.run(
        [str(chromium), *flags.split(), f"--user-data-dir={tmp_path / 'profile'}", (tmp_path / "page.html").as_uri()],
        capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip
    assert "786 KB" in done.stdout  # 512 bytes * 3 sequences * 512 cells: 1,024 tokens by 3, rounded up


def test_where_the_slider_stops() -> None:
    assert contexts(2048, 4096) == [512, 1024, 2048, 4096]
    assert contexts(3000, 40960) == [512, 1024, 2048, 3000, 4096, 8192, 16384, 32768, 40960]
    assert contexts(100, 0)[0] == 100 and contexts(100, 0)[-1] == 131072


def test_bench_keeps_what_was_not_used() -> None:
    found = read_section(DATA / "samples" / "bench.json")
    data = json.loads((DATA / "samples" / "bench.json").read_text())
    assert any(f"{data['n_disturbed']} of {len(data['runs'])} runs" in line for line in found.summary)
    assert len(found.tables[1].rows) == len(data["comparisons"])
    assert {plot["kind"] for plot in found.plots} == {"speed", "acceptance"}


def test_sections_stand_in_an_order_that_tells_a_story(tmp_path: Path) -> None:
    files = {}
    for name, data in (
        ("serve", json.loads((DATA / "documents" / "serve.json").read_text()) | {"notes": []}),
        ("doctor", nextn.doctor(Q4).to_json()),
        ("attach", nextn.attach(Q4, CHECKPOINT, out=tmp_path, dry_run=True).to_json()),
        ("inspect", nextn.inspect(Q4).to_json()),
    ):
        files[name] = tmp_path / f"{name}.json"
        files[name].write_text(json.dumps(data))
    titles = [section.title.partition(":")[0] for section in read_sections(list(files.values()))]
    assert titles == ["Model", "Examined", "Files", "Serving"]
    doctor = read_sections([files["doctor"]])[0]
    assert doctor.summary[0] == "no problems" and doctor.tables[0].rows[0][1] == "no-block-attached"


def test_a_plan_shows_devices_measured_runs_and_what_publishing_takes(tmp_path: Path) -> None:
    data = json.loads((DATA / "samples" / "plan.json").read_text())
    one = data["setups"][0]
    one["devices"] = [{**one["devices"][0], "device": "CUDA0"}, {**one["devices"][0], "device": "Host"}]
    totals = {name: n for name, n in one["totals"].items() if name != "needed_bytes"}
    one["measured"] = {**totals, "rss_anonymous_bytes": 1, "rss_file_bytes": 1, "peak_bytes": 1}
    one["disk_bytes"] = None
    data["publishing"] = {"separate_bytes": 5_000_000, "shared_bytes": 3_000_000, "saved_bytes": 2_000_000,
                          "how": "sidecar", "by_layout": {}}  # fmt: skip
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(data))
    (section,) = read_sections([path])
    memory, disk = section.tables
    names = [row[0] for row in memory.rows]
    assert names[:3] == [f"{one['title']}: CUDA0", f"{one['title']}: Host", f"{one['title']}, measured"]
    assert memory.rows[0][1] == "-" and memory.rows[1][1] == ""
    assert [setup["title"] for setup in section.plots[0]["setups"]][:2] == names[:2]
    assert ("published with and without MTP, as trunk and sidecar", "", "3 MB", "") in disk.rows
    text = page([section]).decode()
    assert '<th scope="col" class="number">total</th>' in text and 'class="wide"' in text
