"""Engines that say too much, nothing, or never come to an end: bounded in memory, on disk and in time."""

from __future__ import annotations

import os
import random
import re
import resource
import sys
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from nextn.engines import Launch, LlamaServer, llama_server, logs, ring
from nextn.engines import http as engine_http
from nextn.engines.process import EngineProcess
from nextn.engines.ring import Drain, LogFile, Ring
from nextn.errors import EngineFailed, EngineMissing, EngineRefused, StorageError

FAKE = """#!{python}
import sys, time, socket, threading
if sys.argv[1:] == ["--version"]: {version}
if sys.argv[1:] == ["--help"]: print("--spec-type draft-mtp --model-draft"); sys.exit()
out = sys.stdout.buffer
def serve(answer):
    port = int(sys.argv[sys.argv.index("--port") + 1])
    s = socket.create_server(("127.0.0.1", port)); print("listening", flush=True)
    def one(c):
        head = b""
        while b"\\r\\n\\r\\n" not in head: head += c.recv(65536)
        top, _, body = head.partition(b"\\r\\n\\r\\n")  # what is not read resets the connection when it is closed
        sizes = [int(line[15:]) for line in top.split(b"\\r\\n") if line.lower().startswith(b"content-length:")]
        while len(body) < sum(sizes): body += c.recv(65536)
        try:
            if b"/health" in head.split()[1]: c.sendall(b"HTTP/1.1 200 OK\\r\\nContent-Length: 2\\r\\n\\r\\n{{}}")
            else: answer(c)
        except OSError: pass
        c.close()
    while True: threading.Thread(target=one, args=(s.accept()[0],), daemon=True).start()
{act}
"""


@pytest.fixture
def fake(tmp_path: Path) -> Callable[..., LlamaServer]:
    def make(act: str, version: str = 'print("version: 1 (x)"); sys.exit()') -> LlamaServer:
        path = tmp_path / "llama-server"
        path.write_text(FAKE.format(python=sys.executable, version=version, act=act))
        path.chmod(0o755)
        llama_server._ask.cache_clear()
        return LlamaServer.find(path)

    return make


def start(server: LlamaServer, tmp_path: Path, **more: float) -> object:
    return server.start(Launch(tmp_path / "x.gguf", **more))  # type: ignore[arg-type]


# -- the ring ---------------------------------------------------------------------------------------------------------


def test_a_ring_keeps_both_ends_of_any_stream() -> None:
    dice = random.Random(1)
    for _ in range(300):
        kept, stream = Ring(10, 20), b""
        for _ in range(dice.randrange(12)):
            data = bytes(dice.choices(b"abc", k=dice.choice([0, 1, 3, 9, 30, 200])))
            kept.write(data)
            stream += data
        assert kept.size == len(stream)
        got = kept.read()
        if len(stream) <= 30:
            assert got == stream
        else:
            match = re.fullmatch(rb"(.{10})(?:\n\[(\d+) bytes of the log are left out here\]\n)?(.*)", got)
            assert match is not None and match[1] == stream[:10] and stream.endswith(match[3])
            assert len(match[3]) >= 20 and int(match[2] or 0) == len(stream) - 10 - len(match[3])
        for start_at in (0, 5, 15, len(stream)):
            assert stream.endswith(kept.read(start_at)[-20:]) or not kept.read(start_at)


def test_a_ring_reads_on_from_where_a_reader_was() -> None:
    kept = Ring(10, 20)
    kept.write(b"0123456789abcdef")
    assert kept.read(4) == b"456789abcdef" and kept.read(12) == b"cdef" and kept.read(16) == b"" == kept.read(99)


def test_an_endless_line_and_endless_lines_are_bounded() -> None:
    for piece in (b"x" * 65536, b"y\n" * 32768):
        kept = Ring()
        for _ in range(400):
            kept.write(piece)
        assert kept.size == 400 * 65536
        assert len(kept.read()) <= ring.HEAD_BYTES + ring.TAIL_BYTES + 2 * 65536


# -- reading hostile logs ---------------------------------------------------------------------------------------------

LIMIT = ring.HEAD_BYTES + ring.TAIL_BYTES
HOSTILE = {
    "one line": "a",
    "spaces": " ",
    "prefixes": "a: ",
    "short lines": "x\n",
    "tensors": "tensor '" * 2000 + "\n",
    "sizes": " a" * 400 + " buffer size = 1\n",
    "space sizes": " " * 900 + " buffer size = x\n",
    "acceptance": "draft acceptance = " + "1" * 400 + " ( 1 acc\n",
}


def cost(read: Callable[[str], object], piece: str) -> float:
    """Seconds of processor time for a log of the largest size, made of a piece again and again."""
    log = piece * (LIMIT // len(piece))
    began = time.process_time()
    read(log)
    return time.process_time() - began


@cache
def plain_cost(read: Callable[[str], object]) -> float:
    return cost(read, "0.00.029 I load_tensors: some words about one tensor of many here\n")


@pytest.mark.slow
@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("read", [logs.decisive_line, logs.memory_use, logs.acceptance_lines], ids=lambda f: f.__name__)
def test_reading_a_log_takes_no_more_than_its_length(name: str, read: Callable[[str], object]) -> None:
    """By processor time, against a plain log of the same length: no pattern goes over a line again and again."""
    assert cost(read, HOSTILE[name]) < 20 * plain_cost(read) + 1


def test_a_decisive_line_is_quoted_in_part() -> None:
    assert len(logs.decisive_line("error: no such file " + "x" * 100_000)) <= logs.QUOTE_CHARS


def test_sizes_that_are_no_numbers_are_passed_over() -> None:
    assert logs.memory_use("load_tensors: CPU model buffer size = 1.2.3 MiB\n buffer size = 5 MiB\n") == []


# -- processes --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("what", ["b'spam ' * 13107 + b'\\n'", "b'x' * 65536"])
def test_an_engine_that_spews_is_bounded_in_memory_and_on_disk(
    fake: Callable[..., LlamaServer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    server = fake(f"data = {what}\nwhile True: out.write(data)")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(EngineFailed, match="had not loaded") as caught:
        start(server, tmp_path, start_timeout_s=1.5)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before  # KiB
    assert grown < 300 << 10
    assert caught.value.log is not None
    assert 8 << 20 <= caught.value.log.stat().st_size <= 9 << 20
    assert b"bytes of the log are left out here]" in caught.value.log.read_bytes()
    assert [path.name for path in tmp_path.glob("nextn-engine-*")] == [caught.value.log.name]


def test_a_good_start_and_a_killed_one_leave_no_log(
    fake: Callable[..., LlamaServer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with start(fake("serve(lambda c: None)"), tmp_path):  # type: ignore[attr-defined]
        assert not list(tmp_path.glob("nextn-engine-*"))
    assert not list(tmp_path.glob("nextn-engine-*"))


@pytest.mark.slow
def test_an_engine_that_hangs_in_silence_is_ended(fake: Callable[..., LlamaServer], tmp_path: Path) -> None:
    began = time.monotonic()
    with pytest.raises(EngineFailed, match=r"hung while loading .*: it printed nothing and did nothing") as caught:
        start(fake("print('loading', flush=True); time.sleep(600)"), tmp_path, silence_timeout_s=1.0)
    assert time.monotonic() - began < 120
    assert caught.value.log is not None and "loading" in caught.value.log.read_text()
    caught.value.log.unlink()


@pytest.mark.slow
@pytest.mark.parametrize(
    "act",
    ["while time.monotonic() < end: pass", "while time.monotonic() < end: print('.', end='', flush=1); time.sleep(.1)"],
    ids=["computes", "talks"],
)
def test_an_engine_that_works_or_talks_is_waited_for(
    fake: Callable[..., LlamaServer], tmp_path: Path, act: str
) -> None:
    work = f"end = time.monotonic() + 3\n{act}\nserve(lambda c: None)"
    with start(fake(work), tmp_path, silence_timeout_s=2.0) as running:  # type: ignore[attr-defined]
        assert running.alive


ANSWERS = {
    "endless": ("c.sendall(b'HTTP/1.1 200 OK\\r\\n\\r\\n')\n    while True: c.sendall(b'x' * 65536)",
                r"more than 16,777,216 bytes"),
    "endless chunks": ("c.sendall(b'HTTP/1.1 200 OK\\r\\nTransfer-Encoding: chunked\\r\\n\\r\\n')\n"
                       "    while True: c.sendall(b'10000\\r\\n' + b'x' * 65536 + b'\\r\\n')",
                       r"more than 16,777,216 bytes"),
    "huge": ("c.sendall(b'HTTP/1.1 200 OK\\r\\nContent-Length: 999999999999\\r\\n\\r\\n')\n"
             "    while True: c.sendall(b'x' * 65536)", r"more than 16,777,216 bytes"),
    "dripping body": ("c.sendall(b'HTTP/1.1 200 OK\\r\\nContent-Length: 9999\\r\\n\\r\\n')\n"
                      "    while True: c.sendall(b' '); time.sleep(.1)", r"gave no answer within 2 s"),
    "dripping head": ("while True: c.sendall(b'X'); time.sleep(.1)", r"gave no answer within 2 s"),
    "endless header": ("c.sendall(b'HTTP/1.1 200 OK\\r\\nX: ')\n    while True: c.sendall(b'x' * 65536)",
                       r"broke the connection"),
    "deep": ("b = b'[' * 100000\n    c.sendall(b'HTTP/1.1 200 OK\\r\\nContent-Length: %d\\r\\n\\r\\n' % len(b) + b)",
             r"not JSON"),
    "cut": ("c.sendall(b'HTTP/1.1 200 OK\\r\\nContent-Length: 99\\r\\n\\r\\n{}')", r"broke the connection"),
    "long error": ("c.sendall(b'HTTP/1.1 500 X\\r\\nContent-Length: 9000000\\r\\n\\r\\n' + b'e' * 9000000)",
                   r"answered HTTP 500: e{300} "),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", ANSWERS)
def test_answers_have_a_limit_of_size_and_of_time(
    fake: Callable[..., LlamaServer], tmp_path: Path, name: str
) -> None:
    body, words = ANSWERS[name]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with start(fake(f"def answer(c):\n    {body}\nserve(answer)"), tmp_path) as running:  # type: ignore[attr-defined]
        running._client.timeout_s = 2.0 if "dripping" in name else 120.0
        with pytest.raises(EngineFailed, match=words) as caught:
            running.complete("x", 1)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 << 10
    assert caught.value.log is not None
    caught.value.log.unlink()


def test_answers_up_to_the_limit_are_read(fake: Callable[..., LlamaServer], tmp_path: Path) -> None:
    body = (
        'b = b\'{"tokens": [1], "x": "\' + b"x" * 8000000 + b\'"}\'\n'
        "    c.sendall(b'HTTP/1.1 200 OK\\r\\nContent-Length: %d\\r\\n\\r\\n' % len(b) + b)"
    )
    with start(fake(f"def answer(c):\n    {body}\nserve(answer)"), tmp_path) as running:  # type: ignore[attr-defined]
        assert running.tokenize("x") == [1]
    assert engine_http.MAX_ANSWER_BYTES > 8_000_000


@pytest.mark.slow
def test_a_version_without_end(fake: Callable[..., LlamaServer], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(llama_server, "_PROBE_S", 2.0)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(EngineMissing, match="gave no answer within 2 s"):
        fake("", 'exec("while True: sys.stdout.write(\'x\' * 65536)")')
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 << 10


def test_last_words_are_there_and_a_process_left_behind_does_not_hold_us(tmp_path: Path) -> None:
    script = "import os, sys, time\nif os.fork() == 0:\n  os.setsid(); time.sleep(30)\nprint('last words')\nsys.exit(3)"
    held = EngineProcess([sys.executable, "-c", script])
    began = time.monotonic()
    assert held.wait_ended(60) == "exit code 3"
    assert "last words" in held.read_log() and time.monotonic() - began < 25
    held.stop()
    held.discard_log()


def test_a_log_that_cannot_be_written_hides_no_failure(
    fake: Callable[..., LlamaServer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "missing"))
    with pytest.raises(EngineRefused, match=r"refused to load .*: no such file$") as caught:
        start(fake("print('error: no such file'); sys.exit(1)"), tmp_path)
    assert caught.value.log is None


def test_a_named_log_through_a_link_is_refused(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (tmp_path / "log").symlink_to(victim)
    with pytest.raises(StorageError, match="cannot write the engine's log"):
        LogFile(tmp_path / "log")
    assert victim.read_text() == "precious"


def test_a_drain_ends_with_its_pipe() -> None:
    end, start_of = os.pipe()
    drain = Drain(end, Ring())
    os.write(start_of, b"one\ntwo")
    os.close(start_of)
    drain.wait(10)
    assert drain.ring.read() == b"one\ntwo"
