"""The server that runs from the image: it answers, makes a room for who has the key, and for nobody else."""

import base64
import hashlib
import hmac
import json
import os
import time
import urllib.error
import urllib.request

import pytest

URL = os.environ["LIVEKIT_URL"]


def token(secret: str) -> str:
    """An access token (JWT, HS256) that may make and list rooms."""
    now = int(time.time())
    claims = {
        "iss": os.environ["LIVEKIT_KEY"],
        "nbf": now - 10,
        "exp": now + 60,
        "video": {"roomCreate": True, "roomList": True},
    }
    parts = [
        base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=")
        for part in ({"alg": "HS256", "typ": "JWT"}, claims)
    ]
    signed = hmac.new(secret.encode(), b".".join(parts), hashlib.sha256).digest()
    return b".".join([*parts, base64.urlsafe_b64encode(signed).rstrip(b"=")]).decode()


def call(method: str, body: dict[str, object], secret: str) -> dict[str, object]:
    request = urllib.request.Request(
        f"{URL}/twirp/livekit.RoomService/{method}",
        data=json.dumps(body).encode(),
        headers={"Content-Type": "application/json", "Authorization": f"Bearer {token(secret)}"},
    )
    with urllib.request.urlopen(request, timeout=10) as answer:
        found: dict[str, object] = json.load(answer)
        return found


def test_it_answers_the_probes_of_kubernetes() -> None:
    with urllib.request.urlopen(URL, timeout=10) as answer:
        assert answer.status == 200 and answer.read() == b"OK"


def test_a_room_is_made_and_listed_for_who_has_the_key() -> None:
    secret = os.environ["LIVEKIT_SECRET"]
    made = call("CreateRoom", {"name": "from-the-image", "empty_timeout": 30}, secret)
    listed = call("ListRooms", {}, secret)
    assert made["name"] == "from-the-image" and made["sid"]
    assert [room["sid"] for room in listed["rooms"]] == [made["sid"]]  # type: ignore[attr-defined, index]


def test_nobody_else_makes_one() -> None:
    with pytest.raises(urllib.error.HTTPError) as refused:
        call("CreateRoom", {"name": "not-this-one"}, "another secret, which is as long as that")
    assert refused.value.code == 401
