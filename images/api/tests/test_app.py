from __future__ import annotations

import json
import time
from datetime import UTC, datetime, timedelta

import jwt
import pytest
import redis
from conftest import NOWHERE, SECRET, Running, Start
from prometheus_client.parser import text_string_to_metric_families
from voice_api.observe import configure_logging


def samples(running: Running) -> dict[str, float]:
    text = running.http.get("/metrics").text
    return {
        f"{sample.name}{sorted(sample.labels.items())}": sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def sessions(running: Running) -> tuple[float, float, float]:
    """The counts of ok and of error, and how many durations were seen."""
    seen = samples(running)
    ok, error = (seen[f"voice_sessions_total[('outcome', '{outcome}')]"] for outcome in ("ok", "error"))
    return ok, error, seen["voice_session_duration_seconds_count[]"]


def test_a_created_session_has_a_token_for_its_room(start: Start, redis_url: str) -> None:
    running = start(redis_url=redis_url, livekit_public_url="wss://calls.test", agent_name="echo-agent")
    answer = running.http.post("/v1/sessions")
    assert answer.status_code == 201
    session = answer.json()
    assert session.keys() == {"session_id", "participant_id", "room", "token", "url", "expires_at"}
    assert session["url"] == "wss://calls.test"
    assert answer.headers["location"] == f"/v1/sessions/{session['session_id']}"
    assert answer.headers["cache-control"] == "no-store"
    claims = jwt.decode(session["token"], SECRET, algorithms=["HS256"])
    assert claims["iss"] == "key"
    assert claims["video"]["room"] == session["room"] and claims["video"]["roomJoin"]
    assert "roomAdmin" not in claims["video"]
    assert claims["roomConfig"]["agents"] == [{"agentName": "echo-agent"}]
    left = datetime.fromisoformat(session["expires_at"]) - datetime.now(UTC)
    assert timedelta(seconds=3590) < left <= timedelta(seconds=3600)


def test_a_session_is_read_ended_and_gone(start: Start, redis_url: str) -> None:
    running = start(redis_url=redis_url, va_track="canary")
    created = running.http.post("/v1/sessions").json()
    path = f"/v1/sessions/{created['session_id']}"
    read = running.http.get(path).json()
    assert (read["room"], read["track"], read["release"]) == (created["room"], "canary", "r1")
    assert "token" not in read
    assert running.http.delete(path).status_code == 204
    assert running.rooms.closed == [created["room"]]
    assert running.http.get(path).status_code == 404
    assert running.http.delete(path).status_code == 404


def test_a_token_lives_for_minutes_and_is_renewed_while_the_session_is(start: Start, redis_url: str) -> None:
    running = start(redis_url=redis_url, session_ttl_seconds=7200, token_seconds=240)
    created = running.http.post("/v1/sessions", json={"participant_id": "p-7"}).json()
    path = f"/v1/sessions/{created['session_id']}"
    answer = running.http.post(f"{path}/token")
    assert answer.status_code == 200 and answer.headers["cache-control"] == "no-store"
    for token in (created["token"], answer.json()["token"]):
        claims = jwt.decode(token, SECRET, algorithms=["HS256"])
        assert claims["exp"] - time.time() <= 240
        assert (claims["sub"], claims["video"]["room"]) == ("p-7", created["room"])
    assert answer.json()["url"] == created["url"]
    assert running.http.delete(path).status_code == 204
    assert running.http.post(f"{path}/token").status_code == 404  # ended, so nobody gets in any more


def test_an_erased_person_gets_no_new_token(start: Start, redis_url: str) -> None:
    running = start(redis_url=redis_url, admin_token="a" * 32)
    made = running.http.post("/v1/sessions", json={"participant_id": "p-8"}).json()
    asked = {"participant_id": "p-8"}
    done = running.http.post("/v1/erasures", json=asked, headers={"authorization": f"Bearer {'a' * 32}"})
    assert done.status_code == 200
    assert running.http.post(f"/v1/sessions/{made['session_id']}/token").status_code == 404


def test_two_sessions_share_nothing(start: Start, redis_url: str) -> None:
    running = start(redis_url=redis_url)
    one, two = (running.http.post("/v1/sessions").json() for _ in range(2))
    assert all(one[key] != two[key] for key in ("session_id", "room", "token"))


def test_a_session_outlives_the_process_and_ends_with_its_time(start: Start, redis_url: str) -> None:
    created = start(redis_url=redis_url).http.post("/v1/sessions").json()
    path = f"/v1/sessions/{created['session_id']}"
    assert start(redis_url=redis_url).http.get(path).status_code == 200  # another replica knows it
    with redis.Redis.from_url(redis_url) as client:
        (key,) = client.keys("va:session:*")
        assert 3590 < client.ttl(key) <= 3600
        assert created["token"].encode() not in client.get(key)


def test_a_session_stays_when_its_room_cannot_be_closed(start: Start, redis_url: str) -> None:
    running = start(redis_url=redis_url)
    path = f"/v1/sessions/{running.http.post('/v1/sessions').json()['session_id']}"
    running.rooms.down = True
    answer = running.http.delete(path)
    assert answer.status_code == 503 and answer.headers["retry-after"] == "1"
    running.rooms.down = False
    assert running.http.delete(path).status_code == 204


@pytest.mark.parametrize("session_id", ["x", "..", "a" * 22 + "b", "*" * 22])
def test_an_odd_session_id_is_refused(start: Start, session_id: str) -> None:
    assert start().http.get(f"/v1/sessions/{session_id}").status_code in (404, 422)


def test_too_many_sessions_are_refused_with_a_time_to_wait(start: Start, redis_url: str) -> None:
    running = start(redis_url=redis_url, rate_limit_per_minute=4, rate_limit_burst=2)
    answers = [running.http.post("/v1/sessions") for _ in range(3)]
    assert [answer.status_code for answer in answers] == [201, 201, 429]
    assert answers[-1].headers["retry-after"] == "15"
    assert sessions(running) == (2, 0, 2)  # what the caller did wrong is not an error of ours


def test_without_redis_sessions_fail_and_say_so(start: Start) -> None:
    running = start(redis_url=NOWHERE)
    answer = running.http.post("/v1/sessions")
    assert answer.status_code == 503 and answer.headers["retry-after"] == "1"
    assert running.http.get("/v1/sessions/" + "a" * 22).status_code == 503
    assert sessions(running) == (0, 1, 1)


def test_the_fault_flag_fails_its_share_of_sessions(start: Start, redis_url: str) -> None:
    chances = iter([0.04, 0.05, 0.9])
    running = start(redis_url=redis_url, fault_error_rate=0.05, chance=lambda: next(chances))
    answers = [running.http.post("/v1/sessions") for _ in range(3)]
    assert [answer.status_code for answer in answers] == [500, 201, 201]
    assert sessions(running) == (2, 1, 3)


def test_a_crash_is_an_answer_a_count_and_a_log_line(
    start: Start, redis_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    configure_logging("INFO")

    def broken() -> float:
        raise ZeroDivisionError

    running = start(redis_url=redis_url, chance=broken)
    answer = running.http.post("/v1/sessions")
    assert answer.status_code == 500 and answer.json() == {"detail": "internal error"}
    assert answer.headers["x-va-release"] == "r1"
    assert sessions(running) == (0, 1, 1)
    assert "ZeroDivisionError" in capsys.readouterr().out


def test_metrics_start_at_zero(start: Start) -> None:
    assert sessions(start()) == (0, 0, 0)


def test_metrics_count_requests_by_route_and_not_probes(start: Start, redis_url: str) -> None:
    running = start(redis_url=redis_url)
    session_id = running.http.post("/v1/sessions").json()["session_id"]
    for path in (f"/v1/sessions/{session_id}", "/v1/sessions/" + "b" * 22, "/healthz", "/readyz"):
        running.http.get(path)
    seen = samples(running)
    route = "('handler', '/v1/sessions/{session_id}'), ('method', 'GET')"
    assert seen[f"http_requests_total[{route}, ('status', '2xx')]"] == 1
    assert seen[f"http_requests_total[{route}, ('status', '4xx')]"] == 1
    assert seen["http_request_duration_highr_seconds_count[]"] == 3
    assert not any("healthz" in name or "readyz" in name for name in seen)


def test_every_answer_names_the_release(start: Start, redis_url: str) -> None:
    running = start(redis_url=redis_url, va_track="canary", va_release="20261123-abc")
    for answer in (
        running.http.post("/v1/sessions"),
        running.http.get("/nowhere"),
        running.http.get("/healthz"),
        running.http.put("/v1/sessions"),
    ):
        assert (answer.headers["x-va-track"], answer.headers["x-va-release"]) == ("canary", "20261123-abc")


def test_ready_follows_redis_and_draining(start: Start, redis_url: str) -> None:
    running = start(redis_url=redis_url)
    assert running.http.get("/readyz").status_code == 200
    running.lifecycle.draining = True
    answer = running.http.get("/readyz")
    assert (answer.status_code, answer.json()) == (503, {"status": "draining"})
    assert answer.headers["connection"] == "close"
    assert running.http.get("/healthz").status_code == 200
    assert running.http.post("/v1/sessions").status_code == 201  # until it is stopped, it works


def test_not_ready_without_redis(start: Start) -> None:
    running = start(redis_url=NOWHERE)
    began = time.monotonic()
    assert running.http.get("/readyz").status_code == 503
    assert time.monotonic() - began < 10
    assert running.http.get("/healthz").status_code == 200


def test_logs_are_json_and_hold_no_secret(
    start: Start, redis_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    configure_logging("DEBUG", release="r1")
    running = start(redis_url=redis_url)
    created = running.http.post("/v1/sessions", headers={"x-request-id": "caller-42"}).json()
    running.http.get(f"/v1/sessions/{created['session_id']}", headers={"x-request-id": "bad id\t"})
    running.http.get("/healthz")
    out = capsys.readouterr().out
    lines = [json.loads(line) for line in out.splitlines()]
    requests = [line for line in lines if line["event"] == "request"]
    assert [line["route"] for line in requests] == ["/v1/sessions", "/v1/sessions/{session_id}", "/healthz"]
    assert requests[0]["request_id"] == "caller-42" and requests[0]["status"] == 201
    assert requests[1]["request_id"] != "bad id\t"
    assert {line["release"] for line in lines} == {"r1"}
    assert requests[2]["level"] == "debug"
    for secret in (created["token"], created["session_id"], SECRET):
        assert secret not in out
