from __future__ import annotations

from typing import Any

import pytest

from ci.delivery.masked import masked


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("SMTP_PASSWORD", "hunter2"), ("adminToken", "t"), ("clientSecret", "s"),
        ("db.connectionString", "c"),
        ("OPENAI_API_KEY", "k"), ("storageAccountKeys", ["k1", "k2"]),
        ("url", "redis://voice:hunter2@redis:6379"), ("dsn", "Server=x;password=hunter2;Encrypt=yes"),
        ("sas", "https://a.blob/c?sv=1&sig=abc%2Fdef"), ("note", "ghp_" + "a" * 36),
    ],
)  # fmt: skip
def test_a_secret_is_not_shown_by_its_key_or_its_form(key: str, value: Any) -> None:
    shown = str(masked({"auth": {key: value}}))
    secrets = value if isinstance(value, list) else [value.split("=")[-1], "hunter2"]
    assert "***" in shown and not [one for one in secrets if f"'{one}'" in shown or f":{one}" in shown]
    assert "hunter2" not in shown and "abc%2F" not in shown


@pytest.mark.parametrize(
    "plain",
    [
        {"secretName": "voice-tls"}, {"passwordFile": "/run/x"}, {"automountServiceAccountToken": False},
        {"url": "redis://voice@redis:6379"}, {"key": "REDIS_PASSWORD"}, {"image": "r/api@sha256:" + "a" * 64},
    ],
)  # fmt: skip
def test_what_only_names_one_is_shown(plain: dict[str, Any]) -> None:
    assert masked(plain) == plain


def test_of_kubernetes_objects_secrets_variables_and_files_are_masked() -> None:
    secret = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "s"},
        "data": {"a": "eA==", "b": "eQ=="},
    }
    assert masked(secret)["data"] == {"a": "***", "b": "***"}
    changed = {**secret, "data": {"a": "eA==", "b": "new"}}
    assert masked(changed, was=secret)["data"] == {"a": "***", "b": "*** (another)"}
    env = [{"name": "SMTP_PASSWORD", "value": "hunter2"}, {"name": "LOG_LEVEL", "value": "info"}]
    assert masked({"env": env})["env"][0]["value"] == "***"
    assert masked({"env": env})["env"][1] == env[1]
    file = 'level = "info"\npassword = "hunter2"\n"token": "abc",\n'
    shown = masked({"data": {"app.toml": file}})["data"]["app.toml"]
    assert 'level = "info"' in shown and "hunter2" not in shown and "abc" not in shown
