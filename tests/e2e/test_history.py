"""The history of sessions on the embedded platform: a PostgreSQL beside the cluster, and the chart.

The Job that Helm runs first makes the tables; the api's pods record sessions and erase one person's; a
migration that does not fit stops an upgrade before anything of it is installed.
"""

from __future__ import annotations

import asyncio
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import httpx
import psycopg
import pytest
from installed_chart import PLACE, installed_chart

from ci import tools
from ci.delivery.cluster import connect
from ci.errors import StepFailed
from ci.platform.instance import instance
from ci.platform.postgres import USER

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

T = TypeVar("T")
HOST = "api.history.voice.localhost"
NAMESPACE = "va-history-e2e"
PORT = instance().port(5599)
ADDRESS = instance().cluster.host_ip
SECRETS = {
    "voice-database": {"DATABASE_PASSWORD": "api-secret"},
    "voice-admin": {"ADMIN_TOKEN": "api-secret"},
}


def secret() -> str:
    """LiveKit's: what `SECRETS` copies."""
    lines = PLACE.livekit_env.read_text().splitlines()
    return dict(line.split("=", 1) for line in lines)["LIVEKIT_API_SECRET"]


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """PostgreSQL at the host's end of the link, which pods log in to by a password; its address for us."""
    programs = tools.path("postgres").parent
    with tempfile.TemporaryDirectory(prefix="va-history-", dir="/var/tmp") as folder:
        Path(folder).chmod(0o755)
        home = Path(folder, "home")
        home.mkdir()
        subprocess.run(["chown", USER, home], check=True)
        as_user = ("setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups")
        subprocess.run(
            [*as_user, programs / "initdb", "-D", home / "data", "-U", USER, "--auth=trust", "--no-sync"],
            check=True, capture_output=True, cwd="/",
        )  # fmt: skip
        (home / "data" / "pg_hba.conf").write_text(
            f"host all {USER} {ADDRESS}/32 trust\nhost voice voice all scram-sha-256\n"
        )
        words = ("-c", f"listen_addresses={ADDRESS}", "-p", str(PORT), "-k", str(home), "-F")
        with (
            Path(folder, "log").open("wb") as log,
            subprocess.Popen(
                [*as_user, programs / "postgres", "-D", home / "data", *words],
                stdout=log, stderr=log, cwd="/",
            ) as process,
        ):  # fmt: skip
            try:
                url = f"postgresql://{USER}@{ADDRESS}:{PORT}"
                with eventually(lambda: psycopg.connect(f"{url}/postgres", autocommit=True)) as connection:
                    connection.execute(f"CREATE ROLE voice LOGIN PASSWORD '{secret()}'")
                    connection.execute("CREATE DATABASE voice OWNER voice")
                yield f"{url}/voice"
            finally:
                process.send_signal(signal.SIGINT)  # at once: it does not wait for pods that are still ending


def eventually(what: Callable[[], T], seconds: float = 60) -> T:
    end = time.monotonic() + seconds
    while True:
        try:
            return what()
        except (psycopg.OperationalError, AssertionError):
            if time.monotonic() > end:
                raise
            time.sleep(0.1)


@pytest.fixture(scope="module")
def upgrade(server: str) -> Iterator[Callable[[], None]]:
    values = {
        "database": {
            "enabled": True,
            "url": f"postgresql://{ADDRESS}:{PORT}/voice",
            "user": "voice",
            "secret": "voice-database",
            "tls": False,
            "migrateSeconds": 120,
        },
        "api": {"adminSecret": "voice-admin"},
    }
    with installed_chart(
        NAMESPACE, hostname=HOST, release="history-e2e", values=values, secrets=SECRETS
    ) as again:
        yield again


def rows(server: str, query: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(server) as connection:
        return connection.execute(query.encode()).fetchall()


def api() -> httpx.Client:
    return httpx.Client(base_url=PLACE.gateway, headers={"host": HOST}, timeout=30)


def test_sessions_are_recorded_and_one_persons_erased(upgrade: Callable[[], None], server: str) -> None:
    assert rows(server, "SELECT name FROM schema_migrations") == [("0001_sessions.sql",)]
    with api() as http:
        mine = [http.post("/v1/sessions", json={"participant_id": "p-1"}).json() for _ in range(2)]
        http.post("/v1/sessions", json={"participant_id": "p-2"})
        http.delete(f"/v1/sessions/{mine[0]['session_id']}")

        def recorded() -> None:
            found = rows(server, "SELECT participant_id, ended_at IS NULL FROM sessions ORDER BY 1, 2")
            assert found == [("p-1", False), ("p-1", True), ("p-2", True)]

        eventually(recorded)
        assert http.get("/readyz").status_code in (200, 404)
        asked = {"participant_id": "p-1"}
        assert http.post("/v1/erasures", json=asked).status_code == 401
        administrator = {"authorization": f"Bearer {secret()}"}
        erased = http.post("/v1/erasures", json=asked, headers=administrator)
        assert (erased.status_code, erased.json()) == (200, {"history": 2, "sessions": 1})
        assert http.get(f"/v1/sessions/{mine[1]['session_id']}").status_code == 404
    assert rows(server, "SELECT participant_id FROM sessions") == [("p-2",)]


def test_an_upgrade_that_has_nothing_to_migrate_leaves_no_job(upgrade: Callable[[], None]) -> None:
    upgrade()
    jobs = subprocess.run(
        [tools.path("kubectl"), "--kubeconfig", PLACE.kubeconfig, "--context", PLACE.context, "-n", NAMESPACE,
         "get", "jobs,networkpolicies,serviceaccounts", "-o", "name"],
        check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip
    assert "migrate" not in jobs


def test_a_migration_that_does_not_fit_stops_the_upgrade_and_sessions_go_on(
    upgrade: Callable[[], None], server: str
) -> None:
    with psycopg.connect(server) as connection:
        connection.execute("UPDATE schema_migrations SET digest = 'another'")
    with pytest.raises(StepFailed, match="migrate"):
        upgrade()
    said = asyncio.run(connect(PLACE.kubeconfig, PLACE.context).migrations(NAMESPACE))
    assert any("0001_sessions.sql was applied with another content" in words for words in said.values())
    with api() as http:
        assert http.post("/v1/sessions").status_code == 201
