from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from ci.engine.engine import Engine
from ci.engine.schema import query
from ci.engine.services import RunningServices
from ci.engine.store import Store
from ci.errors import BadInput
from ci.reporting import SilentReporter


@asynccontextmanager
async def _engine(tmp_path: Path) -> AsyncIterator[Engine]:
    store = Store(tmp_path / "cache")
    engine = Engine(store, SilentReporter(), services=RunningServices, workdir=tmp_path)
    try:
        yield engine
    finally:
        await engine.close()
        store.close()


def _run(tmp_path: Path, test: Callable[[Engine], Awaitable[Any]]) -> Any:
    async def main() -> Any:
        async with _engine(tmp_path) as engine:
            return await test(engine)

    return asyncio.run(main())


def test_all_who_ask_for_a_step_share_one_run(tmp_path: Path) -> None:
    runs = 0

    async def step() -> int:
        nonlocal runs
        runs += 1
        await asyncio.sleep(0.01)
        return runs

    async def test(engine: Engine) -> list[int]:
        together = await asyncio.gather(*(engine.once("key", step) for _ in range(5)))
        return [*together, await engine.once("key", step)]

    assert _run(tmp_path, test) == [1] * 6


def test_a_failure_is_shared_but_not_kept(tmp_path: Path) -> None:
    runs = 0

    async def step() -> int:
        nonlocal runs
        runs += 1
        await asyncio.sleep(0.01)
        if runs == 1:
            raise BadInput("first")
        return runs

    async def test(engine: Engine) -> list[Any]:
        failed = await asyncio.gather(*(engine.once("key", step) for _ in range(3)), return_exceptions=True)
        return [*map(str, failed), await engine.once("key", step)]

    assert _run(tmp_path, test) == ["first", "first", "first", 2]


def test_a_step_goes_on_while_anybody_waits_and_ends_when_nobody_does(tmp_path: Path) -> None:
    events: list[str] = []

    async def step() -> None:
        try:
            await asyncio.sleep(30)
        finally:
            events.append("ended")

    async def test(engine: Engine) -> list[str]:
        first, second = (asyncio.ensure_future(engine.once("key", step)) for _ in range(2))
        await asyncio.sleep(0.01)
        first.cancel()
        await asyncio.sleep(0.01)
        events.append("one left")
        second.cancel()
        await asyncio.gather(first, second, return_exceptions=True)
        await asyncio.sleep(0.01)
        return list(events)

    assert _run(tmp_path, test) == ["one left", "ended"]


def test_closing_ends_what_runs(tmp_path: Path) -> None:
    events: list[str] = []

    async def step() -> None:
        try:
            await asyncio.sleep(30)
        finally:
            events.append("ended")

    async def test(engine: Engine) -> None:
        asked = asyncio.ensure_future(engine.once("key", step))
        await asyncio.sleep(0.01)
        await engine.close()
        await asyncio.gather(asked, return_exceptions=True)

    _run(tmp_path, test)

    assert events == ["ended"]


def _errors(tmp_path: Path, text: str) -> list[dict[str, Any]]:
    response = _run(tmp_path, lambda engine: query(engine, text))
    errors: list[dict[str, Any]] = response["errors"]
    return errors


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("{ llm { id } }", "Query.llm"),
        ("{ container { terminal { id } } }", "Container.terminal"),
        ('{ host { unixSocket(path: "x") { id } } }', "Host.unixSocket"),
        ('{ container(platform: "linux/s390x") { user } }', "platform linux/s390x"),
    ],
)
def test_what_is_not_answered_is_named_with_what_to_do(tmp_path: Path, text: str, name: str) -> None:
    (error,) = _errors(tmp_path, text)

    assert error["message"].startswith(f"not supported by the embedded session: {name}")
    assert error["message"].endswith("run it on a Dagger engine")
    assert error["extensions"]["kind"] == "BadInput" and "dagger run" in error["extensions"]["hint"]


def test_an_id_of_another_type_is_refused(tmp_path: Path) -> None:
    async def test(engine: Engine) -> Any:
        made = await query(engine, "{ container { id } }")
        identity = made["data"]["container"]["id"]
        return await query(
            engine, f'{{ directory {{ withDirectory(path: "x", source: "{identity}") {{ id }} }} }}'
        )

    assert (
        "expected the ID of a Directory, got the ID of a Container"
        in _run(tmp_path, test)["errors"][0]["message"]
    )


@pytest.mark.parametrize(
    "text", ["{ container { nothing } }", "{ container", "{ container { withLabel { id } } }"]
)
def test_a_wrong_query_is_an_error_of_graphql(tmp_path: Path, text: str) -> None:
    assert _errors(tmp_path, text)[0]["message"]


def test_a_secret_is_in_no_id_and_in_no_error(tmp_path: Path) -> None:
    async def test(engine: Engine) -> Any:
        made = await query(engine, '{ setSecret(name: "n", plaintext: "hunter2") { id } }')
        identity = made["data"]["setSecret"]["id"]
        wrong = await query(engine, '{ directory { file(path: "hunter2") { size } } }')
        known = await query(engine, f'{{ node(id: "{identity}") {{ ... on Secret {{ plaintext name }} }} }}')
        return identity, wrong["errors"][0]["message"], known["data"]["node"]

    identity, message, node = _run(tmp_path, test)

    from ci.engine.chain import decode

    assert "hunter2" not in str(decode(identity).args)
    assert message == "***: no such file or directory"
    assert node == {"plaintext": "hunter2", "name": "n"}


def test_a_secret_of_another_session_is_asked_for_again(tmp_path: Path) -> None:
    identity = _run(tmp_path, lambda engine: query(engine, '{ setSecret(name: "n", plaintext: "v") { id } }'))
    identity = identity["data"]["setSecret"]["id"]

    (error,) = _errors(tmp_path, f'{{ node(id: "{identity}") {{ ... on Secret {{ plaintext }} }} }}')

    assert "the secret 'n' is of another session" in error["message"]


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("env:NOT_SET_ANYWHERE", "NOT_SET_ANYWHERE is not set"),
        ("file:./missing", "No such file"),
        ("vault://x", "env:NAME, file:PATH or azkv://vault/name"),
        ("azkv://vault", "say azkv://vault/name"),
    ],
)
def test_a_secret_that_cannot_be_read_says_why(tmp_path: Path, uri: str, said: str) -> None:
    assert said in _errors(tmp_path, f'{{ secret(uri: "{uri}") {{ plaintext }} }}')[0]["message"]


def test_secrets_come_from_the_environment_and_from_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("A_SECRET", "from env")
    (tmp_path / "token").write_text("from file")

    async def test(engine: Engine) -> list[str]:
        found = [
            await query(engine, f'{{ secret(uri: "{uri}") {{ plaintext }} }}')
            for uri in ("env:A_SECRET", "file:token")
        ]
        return [one["data"]["secret"]["plaintext"] for one in found]

    assert _run(tmp_path, test) == ["from env", "from file"]
