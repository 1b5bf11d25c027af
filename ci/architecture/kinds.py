"""The kinds of values in architecture files: each is text with its unit, and refuses a wrong one by name."""

from __future__ import annotations

import re
from datetime import timedelta
from ipaddress import IPv4Network
from typing import Annotated, Any, NoReturn

from pydantic import BaseModel, BeforeValidator, ConfigDict, WithJsonSchema, model_validator
from pydantic_core import PydanticCustomError

from ci.architecture.facts import REGIONS, VM_SIZES
from ci.complaints import did_you_mean, shown
from ci.units import meant, meant_duration, meant_percent, meant_size, meant_usd

__all__ = [
    "Cidr", "Domain", "Duration", "Frozen", "GroupRef", "KubernetesVersion", "Percent", "Region", "SecretRef",
    "Size", "Slug", "Usd", "VmSize", "WebPath",
]  # fmt: skip


class Frozen(BaseModel):
    """The base of every declared thing: immutable, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True, strict=True)

    @model_validator(mode="before")
    @classmethod
    def _lists(cls, data: Any) -> Any:
        """A list is one, although what we keep cannot be changed: all else is taken as it is written."""
        if not isinstance(data, dict):
            return data
        return {key: tuple(value) if isinstance(value, list) else value for key, value in data.items()}


def _refuse(message: str, hint: str = "") -> NoReturn:
    raise PydanticCustomError("value", "{message}", {"message": message, "hint": hint})


def _schema(pattern: str, example: str) -> WithJsonSchema:
    return WithJsonSchema({"type": "string", "pattern": pattern, "examples": [example]})


def _cidr(value: Any) -> IPv4Network:
    if isinstance(value, IPv4Network):
        return value
    if not isinstance(value, str) or "/" not in value:
        _refuse(f"{shown(value)} is no address range", "write address/prefix, for example 10.0.0.0/16")
    try:
        return IPv4Network(value)
    except ValueError:
        pass
    try:
        network = IPv4Network(value, strict=False)
    except ValueError:
        _refuse(
            f"{shown(value)} is no IPv4 range",
            "four numbers of 0-255, a slash, a prefix of 0-32: 10.0.0.0/16",
        )
    _refuse(f"{shown(value)} has bits set past its prefix", f"did you mean {network}?")


_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_LONGEST = timedelta(days=36525)


def _duration(value: Any) -> timedelta:
    if isinstance(value, timedelta):
        return value
    hint = meant(meant_duration(value)) or "a whole number and s, m, h or d: 30s, 10m, 1h, 7d"
    if not isinstance(value, str):
        _refuse(f"{shown(value)} is a duration without a unit", hint)
    match = re.fullmatch(r"([0-9]{1,12})([smhd])", value.strip())
    if match is None:
        _refuse(f"{shown(value)} is no duration", hint)
    seconds = int(match[1]) * _SECONDS[match[2]]
    if seconds > _LONGEST.total_seconds():
        _refuse(f"{shown(value)} is longer than a century", "a duration that somebody lives to see")
    return timedelta(seconds=seconds)


def _size(value: Any) -> int:
    hint = meant(meant_size(value)) or "a whole number and GB or TB (2^30 and 2^40 bytes, as Azure counts)"
    if isinstance(value, int) and not isinstance(value, bool):
        _refuse(f"{value} is a size without a unit", hint)
    match = re.fullmatch(r"([0-9]{1,9}) ?(GB|TB)", value.strip()) if isinstance(value, str) else None
    if match is None:
        _refuse(f"{shown(value)} is no size", hint)
    return int(match[1]) * (1024 if match[2] == "TB" else 1)


def _percent(value: Any) -> float:
    if isinstance(value, float) and 0 < value <= 1:
        return value  # a default of the model
    match = (
        re.fullmatch(r"([0-9]{1,6}(?:\.[0-9]{1,6})?) ?%", value.strip()) if isinstance(value, str) else None
    )
    if match is None or float(match[1]) > 100:
        hint = meant(meant_percent(value)) or "write 0% to 100%, with the sign"
        _refuse(f"{shown(value)} is no percentage", hint)
    return float(match[1]) / 100


def _usd(value: Any) -> float:
    match = (
        re.fullmatch(r"([0-9]{1,12}(?:\.[0-9]{1,2})?) ?USD", value.strip())
        if isinstance(value, str)
        else None
    )
    if match is None:
        _refuse(f"{shown(value)} is no amount of money", meant(meant_usd(value)) or "write 1200 USD")
    return float(match[1])


def _region(value: Any) -> str:
    if not isinstance(value, str) or value not in REGIONS:
        _refuse(f"{shown(value)} is no Azure region", did_you_mean(str(value).lower(), REGIONS))
    return value


def _vm_size(value: Any) -> str:
    if not isinstance(value, str) or value not in VM_SIZES:
        _refuse(f"{shown(value)} is no VM size known here", did_you_mean(str(value), VM_SIZES))
    return value


def _reference(value: Any) -> str | None:
    """What names a secret's place and not the secret; None for anything else."""
    vault, variable = r"azkv://[a-zA-Z0-9-]+/[a-zA-Z0-9-]+", r"env:[A-Z][A-Z0-9_]*"
    return value if isinstance(value, str) and re.fullmatch(f"{vault}|{variable}", value) else None


def _secret_ref(value: Any) -> str:
    if (reference := _reference(value)) is None:
        # The value itself may be the secret: never shown.
        _refuse(
            "a reference to a secret belongs here, not a value",
            "write azkv://this/<name> (this environment's vault), azkv://<vault>/<name> or env:NAME; "
            "a real secret that stood here has been seen: replace it",
        )
    return reference


def _group_ref(value: Any) -> str:
    if isinstance(value, str) and re.fullmatch(r"(?i)[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", value):
        return value.lower()
    if (reference := _reference(value)) is None:
        _refuse(
            f"{shown(value)} is no Entra group",
            "write env:NAME of a variable that holds the group's object id, or the id itself: "
            "`az ad group show --group NAME --query id`",
        )
    return reference


_NAME_CHARACTERS = 41


def _slug(value: Any) -> str:
    hint = "small letters, digits and hyphens, a letter first"
    if not isinstance(value, str):
        _refuse(f"{shown(value)} is no name", hint)
    if re.fullmatch(r"[a-z][a-z0-9-]*", value) is None:
        plain = re.sub(r"[^a-z0-9-]+", "-", value.lower()).strip("-0123456789")[:_NAME_CHARACTERS]
        _refuse(f"{shown(value)} is no name", f"{hint}; {meant(plain)}" if plain else hint)
    if len(value) > _NAME_CHARACTERS:
        _refuse(
            f"{shown(value)} has {len(value)} characters; a name has {_NAME_CHARACTERS} at most",
            "a shorter one",
        )
    return value


def _domain(value: Any) -> str:
    """Source: RFC 1035, section 2.3.1 and 2.3.4."""
    hint = "small letters, digits and hyphens between dots: voice.example.com"
    if not isinstance(value, str):
        _refuse(f"{shown(value)} is no domain", hint)
    labels = value.split(".")
    if len(labels) < 2 or not re.fullmatch(r"[a-z]{2,}|xn--[a-z0-9-]+", labels[-1]):
        _refuse(f"{shown(value)} is no domain: it ends in none, such as .com", hint)
    for label in labels:
        if not re.fullmatch(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?", label):
            _refuse(f"{shown(value)} is no domain: {shown(label)} cannot stand between its dots", hint)
        if len(label) > 63:
            _refuse(f"{shown(value)} is no domain: 63 characters fit between two dots", "a shorter one")
    if len(value) > 253:
        _refuse(f"{shown(value)} is no domain: it has {len(value)} characters, 253 at most", "a shorter one")
    return value


def _web_path(value: Any) -> str:
    if not isinstance(value, str) or not re.fullmatch(r"/[!-~]*", value):
        near = (
            f"did you mean '/{value}'?" if isinstance(value, str) and re.fullmatch(r"[!-~]+", value) else ""
        )
        _refuse(
            f"{shown(value)} is no path of a URL",
            near or "it starts with a slash and has no spaces: /healthz",
        )
    return value


def _kubernetes_version(value: Any) -> str:
    if not isinstance(value, str):
        _refuse(
            f"{shown(value)} is a number, and 1.30 would be 1.3",
            f'quote it: "{value}"' if isinstance(value, float) else 'write "1.36"',
        )
    if not re.fullmatch(r"1\.[0-9]{1,3}", value):
        minor = re.match(r"v?(1\.[0-9]{1,3})\b", value)
        _refuse(
            f"{shown(value)} is no Kubernetes version: patches are AKS's own choice",
            meant(minor[1]) if minor else 'two numbers: "1.36"',
        )
    return value


Cidr = Annotated[IPv4Network, BeforeValidator(_cidr), _schema(r"^[0-9.]+/[0-9]{1,2}$", "10.0.0.0/16")]
Duration = Annotated[timedelta, BeforeValidator(_duration), _schema("^[0-9]+[smhd]$", "10m")]
Size = Annotated[int, BeforeValidator(_size), _schema("^[0-9]+ ?(GB|TB)$", "128 GB")]
Percent = Annotated[float, BeforeValidator(_percent), _schema("^[0-9.]+ ?%$", "80%")]
Usd = Annotated[float, BeforeValidator(_usd), _schema("^[0-9.]+ ?USD$", "1200 USD")]
Region = Annotated[str, BeforeValidator(_region), WithJsonSchema({"type": "string", "enum": sorted(REGIONS)})]
VmSize = Annotated[
    str, BeforeValidator(_vm_size), WithJsonSchema({"type": "string", "enum": sorted(VM_SIZES)})
]
SecretRef = Annotated[
    str, BeforeValidator(_secret_ref), _schema("^(azkv://|env:)", "azkv://kv-x/livekit-api-key")
]
GroupRef = Annotated[
    str, BeforeValidator(_group_ref), _schema("^(azkv://|env:|[0-9a-fA-F]{8}-)", "env:ENTRA_GROUP_ADMINS")
]
Slug = Annotated[str, BeforeValidator(_slug), _schema("^[a-z][a-z0-9-]{0,40}$", "agents")]
Domain = Annotated[
    str, BeforeValidator(_domain), _schema(r"^([a-z0-9-]+\.)+[a-z0-9-]{2,}$", "voice.example.com")
]
WebPath = Annotated[str, BeforeValidator(_web_path), _schema("^/", "/healthz")]
KubernetesVersion = Annotated[str, BeforeValidator(_kubernetes_version), _schema(r"^1\.[0-9]+$", "1.36")]
