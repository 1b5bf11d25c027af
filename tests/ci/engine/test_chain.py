from __future__ import annotations

import base64
import zlib

import pytest

from ci.engine import chain
from ci.engine.chain import Call, decode, encode
from ci.errors import BadInput


def _container(name: str = "x") -> Call:
    start = Call(None, "Container", "container", {"platform": None})
    return Call(start, "Container", "withEnvVariable", {"name": name, "value": "ünï"})


def test_an_id_brings_back_the_same_chain() -> None:
    source = Call(None, "Directory", "directory", {})
    call = Call(_container(), "Container", "withDirectory", {"path": "/", "source": source, "include": ["a"]})

    back = decode(encode(call))

    assert back == call
    assert back.args["source"] == source
    assert encode(back) == encode(call)


def test_chains_differ_when_any_argument_does() -> None:
    assert _container("a") != _container("b")
    assert _container("a").digest != _container("b").digest


def test_a_call_used_many_times_is_in_the_id_once() -> None:
    call = _container()
    for number in range(40):
        call = Call(call, "Container", "withRootfs", {"a": call, "b": call, "n": number})

    assert len(encode(call)) < 20_000
    assert decode(encode(call)) == call


def test_a_very_long_chain_does_not_recurse() -> None:
    call = _container()
    for number in range(3000):
        call = Call(call, "Container", "withLabel", {"name": str(number)})

    assert decode(encode(call)) == call


def test_an_id_is_the_same_whatever_was_asked_before() -> None:
    side = Call(Call(None, "Directory", "directory", {}), "Directory", "withNewFile", {"path": "p"})
    call, asked = _container(), []
    for number in range(50):
        args = {"n": number, "same": [side, call] if number % 3 else side}
        call = Call(call, "Container", "withRootfs", args)
        asked.append(encode(call))

    chain._NUMBERED.clear()
    chain._NAMED.clear()
    assert encode(call) == asked[-1]
    chain._NAMED.clear()
    assert [decode(identity).args["n"] for identity in asked] == list(range(50))
    assert decode(asked[-1]) == call


@pytest.mark.parametrize(
    "identity",
    [
        "",
        "nonsense",
        "ü",
        base64.urlsafe_b64encode(b"x").decode(),
        base64.b64encode(zlib.compress(b"[]")).decode(),
    ],
)
def test_what_is_no_id_is_bad_input(identity: str) -> None:
    with pytest.raises(BadInput, match="not an ID of the embedded session"):
        decode(identity)


def test_what_is_gone_on_from_again_and_again_stays_known() -> None:
    base = Call(Call(None, "Container", "container", {}), "Container", "withNewFile", {"path": "/a"})
    identity = encode(base)
    for number in range(100):
        assert decode(identity) is base
        grown = Call(base, "Container", "withExec", {"args": [str(number)]})
        assert decode(encode(grown)) == grown
