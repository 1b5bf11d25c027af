from __future__ import annotations

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ci.errors import BadInput
from ci.registry import (
    Reference,
    digest_of,
    parse_digest,
    parse_endpoint,
    parse_reference,
    parse_repository,
)

_WORD = st.text(string.ascii_lowercase + string.digits, min_size=1, max_size=8)
_component = st.builds(
    lambda first, rest: first + "".join(mark + word for mark, word in rest),
    _WORD,
    st.lists(st.tuples(st.sampled_from([".", "_", "__", "-", "---"]), _WORD), max_size=2),
)
_repositories = st.lists(_component, min_size=1, max_size=4).map("/".join)
_endpoints = st.builds(
    lambda host, port: host + (f":{port}" if port else ""),
    st.sampled_from(["localhost", "127.0.0.1", "eastus.voice.example", "[::1]", "A-b.example"]),
    st.none() | st.integers(1, 65535),
)
_tags = st.from_regex(r"[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}", fullmatch=True)
_digests = st.binary(max_size=20).map(digest_of)
_references = st.builds(
    Reference,
    registry=_endpoints,
    repository=_repositories,
    tag=st.none() | _tags,
    digest=st.none() | _digests,
)


@given(_references)
def test_what_is_written_is_read_back(reference: Reference) -> None:
    assert parse_reference(str(reference)) == reference


@given(st.text(string.ascii_letters + string.digits + "/:@._-[] \n\u00e9", max_size=60))
def test_any_text_is_a_reference_that_writes_the_same_or_bad_input(text: str) -> None:
    try:
        reference = parse_reference(text)
    except BadInput:
        return
    assert str(reference) == text


@given(_digests, st.integers(0, 70), st.characters())
def test_a_digest_with_one_character_changed_is_itself_or_refused(digest: str, at: int, new: str) -> None:
    changed = digest[:at] + new + digest[at + 1 :]
    if len(changed) == 71 and changed.startswith("sha256:") and set(changed[7:]) <= set("0123456789abcdef"):
        assert parse_digest(changed) == changed
    else:
        with pytest.raises(BadInput):
            parse_digest(changed)


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("fastapi-backend", "names no registry"),
        ("host:5501/Upper", "not the name of a repository"),
        ("host:5501/a//b", "not the name of a repository"),
        ("host:5501/a:", "is not a tag"),
        ("host:5501/a@sha256:12", "is not a digest"),
        ("host:5501/a@", "is not a digest"),
        ("host:99999/a", "is not a registry's address"),
        ("ho st/a", "is not a registry's address"),
        ("host:5501/" + "a" * 256, "not the name of a repository"),
        ("host:5501/a@md5:" + "a" * 32, "is not a digest"),
        ("host:5501/a\n", "not the name of a repository"),
    ],
)
def test_a_wrong_reference_says_which_part_is_wrong(text: str, what: str) -> None:
    with pytest.raises(BadInput, match=what):
        parse_reference(text)


def test_a_reference_at_a_digest_has_no_tag() -> None:
    digest = digest_of(b"x")
    assert str(parse_reference("h:1/a:t").at(digest)) == f"h:1/a@{digest}"


def test_the_parts_are_given_back_when_right() -> None:
    assert parse_endpoint("127.0.0.1:5501") == "127.0.0.1:5501"
    assert parse_repository("charts/voice-assistant") == "charts/voice-assistant"
