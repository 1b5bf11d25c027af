"""The kinds of values in architecture files: each is text with its unit, and refuses a wrong one by name."""

from __future__ import annotations

import re
from datetime import timedelta
from ipaddress import IPv4Network
from typing import Annotated, Any, NoReturn

from pydantic import BaseModel, BeforeValidator, ConfigDict, WithJsonSchema
from pydantic_core import PydanticCustomError

from ci.architecture.facts import REGIONS, VM_SIZES
from ci.yamlfile import did_you_mean

__all__ = ["Cidr", "Duration", "Frozen", "Percent", "Region", "SecretRef", "Size", "Slug", "Usd", "VmSize"]


class Frozen(BaseModel):
    """The base of every declared thing: immutable, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)


def _refuse(message: str, hint: str = "") -> NoReturn:
    raise PydanticCustomError("value", "{message}", {"message": message, "hint": hint})


def _schema(pattern: str, example: str) -> WithJsonSchema:
    return WithJsonSchema({"type": "string", "pattern": pattern, "examples": [example]})


def _cidr(value: Any) -> IPv4Network:
    if isinstance(value, IPv4Network):
        return value
    text = str(value)
    if "/" not in text:
        _refuse(f"{text!r} is no address range", "write address/prefix, for example 10.0.0.0/16")
    try:
        return IPv4Network(text)
    except ValueError:
        pass
    try:
        network = IPv4Network(text, strict=False)
    except ValueError:
        _refuse(f"{text!r} is no IPv4 range", "four numbers of 0-255, a slash, a prefix of 0-32: 10.0.0.0/16")
    _refuse(f"{text!r} has bits set past its prefix", f"did you mean {network}?")


_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def _duration(value: Any) -> timedelta:
    if isinstance(value, timedelta):
        return value
    if not isinstance(value, str):
        _refuse(f"{value!r} is a duration without a unit", "write 30s, 10m, 1h or 7d")
    match = re.fullmatch(r"(\d+)([a-zA-Z]*)", value.strip())
    if match is None or match[2] not in _SECONDS:
        _refuse(f"{value!r} is no duration", "a whole number and s, m, h or d: 30s, 10m, 1h, 7d")
    return timedelta(seconds=int(match[1]) * _SECONDS[match[2]])


def _size(value: Any) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        _refuse(f"{value} is a size without a unit", f"did you mean '{value} GB'?")
    match = re.fullmatch(r"(\d+) ?(\w*)", str(value).strip())
    if match is None or match[2] not in ("GB", "TB"):
        _refuse(f"{value!r} is no size", "a whole number and GB or TB (2^30 and 2^40 bytes, as Azure counts)")
    return int(match[1]) * (1024 if match[2] == "TB" else 1)


def _percent(value: Any) -> float:
    if isinstance(value, float) and 0 < value <= 1:
        return value  # a default of the model
    match = re.fullmatch(r"(\d+(?:\.\d+)?) ?%", str(value).strip())
    if match is None or float(match[1]) > 100:
        _refuse(f"{value!r} is no percentage", "write 0% to 100%, with the sign")
    return float(match[1]) / 100


def _usd(value: Any) -> float:
    match = re.fullmatch(r"(\d+(?:\.\d{1,2})?) ?USD", str(value).strip())
    if match is None:
        _refuse(f"{value!r} is no amount of money", "write 1200 USD")
    return float(match[1])


def _region(value: Any) -> str:
    if value not in REGIONS:
        _refuse(f"{value!r} is no Azure region", did_you_mean(str(value), REGIONS))
    return str(value)


def _vm_size(value: Any) -> str:
    if value not in VM_SIZES:
        _refuse(f"{value!r} is no VM size known here", did_you_mean(str(value), VM_SIZES))
    return str(value)


def _secret_ref(value: Any) -> str:
    if not isinstance(value, str) or not re.fullmatch(
        r"azkv://[a-zA-Z0-9-]+/[a-zA-Z0-9-]+|env:[A-Z][A-Z0-9_]*", value
    ):
        # The value itself may be the secret: never shown.
        _refuse(
            "a reference to a secret belongs here, not a value",
            "write azkv://this/<name> (this environment's vault), azkv://<vault>/<name> or env:NAME; "
            "a real secret that stood here has been seen: replace it",
        )
    return value


def _slug(value: Any) -> str:
    if not isinstance(value, str) or not re.fullmatch(r"[a-z][a-z0-9-]{0,40}", value):
        _refuse(f"{value!r} is no name", "small letters, digits and hyphens, a letter first")
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
Slug = Annotated[str, BeforeValidator(_slug), _schema("^[a-z][a-z0-9-]{0,40}$", "agents")]
