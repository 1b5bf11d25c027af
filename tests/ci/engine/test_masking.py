from __future__ import annotations

from ci.engine.masking import Masker, Secrets


def test_every_line_of_a_secret_of_several_lines_is_hidden() -> None:
    masker = Masker()
    masker.add(b"-----BEGIN KEY-----\nMIIEvQIBADAN\nab\n-----END KEY-----\n")

    assert masker.mask("see MIIEvQIBADAN here, ab stays") == "see *** here, ab stays"


def test_a_secret_is_hidden_without_its_closing_newline() -> None:
    masker = Masker()
    masker.add(b"hunter2\n")

    assert masker.mask("it is hunter2.") == "it is ***."


def test_an_empty_secret_hides_nothing() -> None:
    masker = Masker()
    masker.add(b"")

    assert masker.mask("text") == "text"


def test_a_mac_stands_for_name_and_value_and_needs_the_key() -> None:
    one, other = Secrets(b"k" * 32, Masker()), Secrets(b"x" * 32, Masker())

    assert one.set("a", "v") == one.set("a", "v")
    assert len({one.set("a", "v"), one.set("a", "w"), one.set("b", "v"), other.set("a", "v")}) == 4
    assert one.get("a", one.set("a", "v")) == b"v"
    assert one.get("a", "unknown") is None


def test_plaintexts_are_not_in_any_repr() -> None:
    secrets = Secrets(b"k" * 32, Masker())
    secrets.set("a", "hunter2")

    assert "hunter2" not in repr(secrets.masker) + repr(secrets)
