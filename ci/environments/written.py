"""Values of these files as people write them, and what all their models have."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError

from ci import places
from ci.complaints import mistake, shown
from ci.errors import BadInput
from ci.units import meant, meant_duration

__all__ = [
    "Address",
    "CommittedFile",
    "Container",
    "Margin",
    "Model",
    "Name",
    "Seconds",
    "Share",
    "Threshold",
    "Url",
    "Wave",
    "as_seconds",
    "parse_seconds",
    "written_as",
]

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_CENTURY = 36525 * 86400.0


def as_seconds(value: object) -> float:
    """A duration as people write it, in seconds; else a complaint for a validator to raise."""
    form = meant(meant_duration(value, smallest="ms")) or "write 500ms, 10s, 5m, 1h or 30d"
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        raise mistake(f"a duration needs a unit, not {shown(value)}", form)
    parts = (
        re.fullmatch(r"([0-9]{1,12}(?:\.[0-9]{1,6})?)(ms|s|m|h|d)", value) if isinstance(value, str) else None
    )
    if parts is None:
        raise mistake(f"{shown(value)} is not a duration", form)
    if (seconds := float(parts[1]) * _UNITS[parts[2]]) > _CENTURY:
        raise mistake(f"{shown(value)} is longer than a century", "a duration that somebody lives to see")
    return seconds


def parse_seconds(text: str, *, what: str) -> float:
    """A duration as people write it (500ms, 10s, 5m, 1h, 30d) in seconds; BadInput names `what` it is of."""
    try:
        return as_seconds(text)
    except PydanticCustomError as error:
        raise BadInput(f"{what}: {error.message()}", hint=(error.context or {}).get("hint", "")) from error


def _is_host(text: str) -> bool:
    """Whether that is `host` or `host:port`: a name, or an address of either kind."""
    if not re.fullmatch(r"([A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?|\[[0-9a-fA-F:.]+\])(:[0-9]{1,5})?", text):
        return False
    try:
        parts = urlsplit(f"//{text}")
        return bool(parts.hostname) and parts.port != 0
    except ValueError:  # no such port, no such address
        return False


def _address(value: str) -> str:
    if not _is_host(value):
        host = re.sub(r"^[a-z]+://|/.*$", "", value)
        form = "write host or host:port, with no scheme and no path"
        raise mistake(f"{shown(value)} is not a registry", meant(host) if host != value else form)
    return value


def _url(value: str) -> str:
    found = re.fullmatch(r"https?://([^/\s]+)(/\S*)?", value)
    if found is None or not _is_host(found[1]):
        raise mistake(
            f"{shown(value)} is not an http or https URL", "write scheme and host: http://host:port"
        )
    return value.rstrip("/")


def _container(value: str) -> str:
    found = re.fullmatch(r"(https?)://([^/\s]+)((?:/[A-Za-z0-9-]+){1,2})/?", value)
    at_home = found is not None and (urlsplit(value).hostname or "") in ("127.0.0.1", "::1", "localhost")
    if found is None or not _is_host(found[2]) or (found[1] == "http" and not at_home):
        raise mistake(
            f"{shown(value)} is no container of blobs",
            "write https://ACCOUNT.blob.core.windows.net/CONTAINER; who may write to it is for Entra to say",
        )
    if not re.fullmatch(r"(?=.{3,63}$)[a-z0-9]+(-[a-z0-9]+)*", found[3].rpartition("/")[2]):
        raise mistake(
            f"{shown(value)} is no container of blobs",
            "a container's name has 3 to 63 small letters, digits and single hyphens",
        )
    return value.rstrip("/")


def _path(value: object) -> object:
    if not isinstance(value, str):
        return value
    try:
        if value.isprintable() and not re.search(r"\$(?!\{state\})", value):
            return Path(value.replace("${state}", str(places.state()))).expanduser()
    except RuntimeError:  # nobody here is called as after its `~`
        pass
    raise mistake(f"{shown(value)} is no name of a file", "a path; ${state} is where `va up` keeps things")


def _committed(value: object) -> object:
    """A file that may be part of the checkout: named from there, wherever the command is run."""
    path = _path(value)
    return places.checkout() / path if isinstance(path, Path) else path


def _threshold(value: object) -> object:
    if isinstance(value, str) and value[:1].isalpha() and value != "baseline":
        raise mistake(f"{shown(value)} is not a duration", "baseline, or a duration: 500ms")
    return value if value == "baseline" else as_seconds(value)


def written_as(expression: str, words: str) -> AfterValidator:
    """Text of a form that words can tell, since no expression is shown to anybody."""

    def check(value: str) -> str:
        if re.fullmatch(expression, value) is None:
            raise mistake(f"{shown(value)} is not how it is written", words)
        return value

    return AfterValidator(check)


Seconds = Annotated[float, BeforeValidator(as_seconds), Field(ge=0, allow_inf_nan=False)]
"""Written with a unit: 500ms, 10s, 5m, 1h, 30d."""
Threshold = Annotated[float | Literal["baseline"], BeforeValidator(_threshold)]
Address = Annotated[str, AfterValidator(_address)]
"""Of a registry: host or host:port."""
Container = Annotated[str, AfterValidator(_container)]
"""Of blobs: its URL."""
CommittedFile = Annotated[Path, BeforeValidator(_committed)]
Share = Annotated[float, Field(gt=0, lt=1, allow_inf_nan=False)]
Margin = Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)]
Url = Annotated[str, AfterValidator(_url)]
Name = Annotated[
    str,
    written_as(
        r"[a-z]([a-z0-9-]{0,40}[a-z0-9])?", "at most 42 small letters, digits and hyphens, a letter first"
    ),
]
Wave = Annotated[tuple[Name, ...], Field(min_length=1, strict=False)]


class Model(BaseModel):
    """What every part of an environment is: frozen, and with no key that it does not know."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")
