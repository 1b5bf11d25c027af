"""Names of things in registries: `host[:port]/repository[:tag][@sha256:...]`.

The grammar is that of the OCI distribution specification and of the `distribution/reference` grammar it took
it from. Unlike Docker's, a reference here always names its registry: there is no default host.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, replace

from ci.errors import BadInput

__all__ = ["Reference", "digest_of", "parse_digest", "parse_endpoint", "parse_reference", "parse_repository"]

_ENDPOINT = re.compile(
    r"(?:[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?(?:\.[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?)*"
    r"|\[[0-9a-fA-F:.]+\])(?::[0-9]{1,5})?"
)
_COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_REPOSITORY = re.compile(rf"{_COMPONENT}(?:/{_COMPONENT})*")
_TAG = re.compile(r"[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_LONGEST_REPOSITORY = 255


@dataclass(frozen=True, kw_only=True)
class Reference:
    """One artifact in one registry, by tag, by digest, or by both (then the digest decides)."""

    registry: str
    repository: str
    tag: str | None = None
    digest: str | None = None

    def __str__(self) -> str:
        tag = f":{self.tag}" if self.tag else ""
        digest = f"@{self.digest}" if self.digest else ""
        return f"{self.registry}/{self.repository}{tag}{digest}"

    def at(self, digest: str) -> Reference:
        """The same repository at that digest, without a tag."""
        return replace(self, tag=None, digest=parse_digest(digest))


def parse_reference(text: str) -> Reference:
    """Read `host[:port]/repository[:tag][@digest]`; BadInput says which part is wrong."""
    rest, at, digest = text.partition("@")
    registry, slash, path = rest.partition("/")
    if not slash:
        raise BadInput(f"{text!r} names no registry", hint="write it as host:port/repository@sha256:…")
    repository, colon, tag = path.partition(":")
    if colon and not _TAG.fullmatch(tag):
        raise BadInput(f"{tag!r} in {text!r} is not a tag: letters, digits, '_', '.', '-', at most 128")
    return Reference(
        registry=parse_endpoint(registry),
        repository=parse_repository(repository),
        tag=tag if colon else None,
        digest=parse_digest(digest) if at else None,
    )


def parse_endpoint(text: str) -> str:
    """`text` when it is `host` or `host:port`, else BadInput."""
    if not _ENDPOINT.fullmatch(text) or (":" in text[-6:] and _port(text) > 65535):
        raise BadInput(f"{text!r} is not a registry's address", hint="write it as host or host:port")
    return text


def parse_repository(text: str) -> str:
    """`text` when it is the name of a repository (lower case, parts joined by '/'), else BadInput."""
    if len(text) > _LONGEST_REPOSITORY or not _REPOSITORY.fullmatch(text):
        raise BadInput(
            f"{text!r} is not the name of a repository",
            hint="lower case letters and digits, joined by '.', '_', '-' and '/', at most 255",
        )
    return text


def parse_digest(text: str) -> str:
    """`text` when it is a sha256 digest, else BadInput. Other algorithms are not accepted."""
    if not _DIGEST.fullmatch(text):
        raise BadInput(f"{text!r} is not a digest", hint="sha256: and 64 hexadecimal digits in lower case")
    return text


def digest_of(content: bytes) -> str:
    """The sha256 digest of these bytes, as registries write it."""
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def _port(endpoint: str) -> int:
    digits = endpoint.rpartition(":")[2]
    return int(digits) if digits.isdigit() else 0
