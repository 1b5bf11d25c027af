"""The API server, as far as the guard's role goes, over one connection. Nothing is followed or guessed."""

from __future__ import annotations

import http.client
import json
import ssl
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

__all__ = ["Api", "Refused", "Unreachable"]

_LARGEST = 4 * 2**20
_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
Json = dict[str, Any]


class Unreachable(Exception):
    """No answer, or one that is no JSON."""


class Refused(Exception):
    """The API server said no: `code` is HTTP's."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code


class Api:
    """One namespace. `now` is the cluster's time of its last answer, in seconds since 1970."""

    def __init__(self, host: str, port: int, *, account: Path = _ACCOUNT, timeout: float = 3.0) -> None:
        self._account = account
        self._namespace = quote((account / "namespace").read_text().strip(), safe="")
        trust = ssl.create_default_context(cafile=str(account / "ca.crt"))
        self._connection = http.client.HTTPSConnection(host, port, timeout=timeout, context=trust)
        self.now = 0.0

    def route(self, name: str) -> Json | None:
        """An HTTPRoute; None when there is none."""
        return self._get(self._routes(name))

    def write_route(self, route: Json) -> None:
        """As it was read, and changed; Refused (409) when somebody changed it meanwhile."""
        self._ask("PUT", self._routes(route["metadata"]["name"]), route)

    def lease(self, name: str) -> Json | None:
        """A Lease; None when there is none."""
        return self._get(f"/apis/coordination.k8s.io/v1/namespaces/{self._namespace}/leases/{quote(name)}")

    def ready(self, service: str) -> int:
        """How many endpoints of a Service are ready."""
        path = f"/apis/discovery.k8s.io/v1/namespaces/{self._namespace}/endpointslices"
        found = self._ask("GET", f"{path}?labelSelector={quote(f'kubernetes.io/service-name={service}')}")
        return sum(
            (one.get("conditions") or {}).get("ready")
            is not False  # unknown counts as ready, by its definition
            for part in found.get("items") or []
            for one in part.get("endpoints") or []
        )

    def record(self, name: str, data: Mapping[str, str]) -> None:
        """What was done, into a ConfigMap that is there."""
        path = f"/api/v1/namespaces/{self._namespace}/configmaps/{quote(name)}"
        self._ask("PATCH", path, {"data": dict(data)})

    def _routes(self, name: str) -> str:
        group = "gateway.networking.k8s.io/v1"
        return f"/apis/{group}/namespaces/{self._namespace}/httproutes/{quote(name)}"

    def _get(self, path: str) -> Json | None:
        try:
            return self._ask("GET", path)
        except Refused as error:
            if error.code == http.client.NOT_FOUND:
                return None
            raise

    def _ask(self, method: str, path: str, body: Json | None = None) -> Json:
        kind = "application/merge-patch+json" if method == "PATCH" else "application/json"
        # Read each time: the kubelet renews it.
        token = (self._account / "token").read_text().strip()
        headers = {"Authorization": f"Bearer {token}", "Accept": "application/json", "Content-Type": kind}
        try:
            self._connection.request(method, path, json.dumps(body) if body is not None else None, headers)
            answer = self._connection.getresponse()
            content = answer.read(_LARGEST)
            found = json.loads(content)
        except (OSError, http.client.HTTPException, ValueError) as error:
            self._connection.close()  # the next question opens it anew
            raise Unreachable(f"{type(error).__name__}: {error}") from error
        if said := answer.headers.get("Date"):
            self.now = parsedate_to_datetime(said).timestamp()
        if not isinstance(found, dict):
            raise Unreachable("an answer that is no object")
        if answer.status >= http.client.BAD_REQUEST:
            raise Refused(answer.status, str(found.get("message", answer.reason)))
        return found
