"""What `helm test` runs in the cluster, run here against an api that answers as a test says."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler

import pytest
from listening import listening

from ci import places

SCRIPT = places.checkout() / "helm/voice-assistant/files/session_test.py"


@contextmanager
def api(*failures: int, release: str = "r7") -> Iterator[str]:
    """One whose first sessions fail with these codes; a session that has ended is not found."""
    left, ended = list(failures), threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            ended.clear()
            self.answer(left.pop(0) if left else 201, {"session_id": "s1"})

        def do_GET(self) -> None:
            self.answer(404 if ended.is_set() else 200, {"release": release})

        def do_DELETE(self) -> None:
            ended.set()
            self.answer(204, None)

        def answer(self, status: int, body: object) -> None:
            content = b"" if body is None else json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    with listening(Handler) as port:
        yield f"127.0.0.1:{port}"


def run(address: str) -> subprocess.CompletedProcess[str]:
    script = SCRIPT.read_text().replace("time.sleep(0.5)", "")
    return subprocess.run(
        [sys.executable, "-c", script], env={**os.environ, "API": address, "RELEASE": "r7"},
        capture_output=True, text=True, timeout=50,
    )  # fmt: skip


@pytest.mark.parametrize("failures", [(), (500,), (503, 500, 502, 500)])
def test_one_session_of_a_few_is_enough(failures: tuple[int, ...]) -> None:
    with api(*failures) as address:
        done = run(address)
    assert done.returncode == 0 and done.stdout.endswith("passed\n")
    assert done.stdout.count("POST /v1/sessions: ") == len(failures) + 1


def test_when_none_works_it_says_what_was_answered() -> None:
    with api(*[503] * 9) as address:
        done = run(address)
    assert done.returncode == 1 and done.stdout.count("POST /v1/sessions: 503") == 5
    assert done.stderr.startswith("no session works: POST /v1/sessions: 503 instead of 201")


def test_another_release_that_answers_is_none_of_ours() -> None:
    with api(release="r6") as address:
        done = run(address)
    assert done.returncode == 1 and "release r6 answered, not r7" in done.stderr
