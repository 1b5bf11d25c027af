"""A ledger that several machines share: append blobs of Azure Blob Storage, by Azure's own client.

    https://ACCOUNT.blob.core.windows.net/CONTAINER  ->  ESTATE/ENVIRONMENT/000001.jsonl, 000002.jsonl, …

A block is a line. It is appended on the condition that the blob is as long as the writer knows it
(x-ms-blob-condition-appendpos), so of two writers one is refused, reads what the other wrote, and decides
anew. A request that is repeated because its answer was lost is refused the same way, and finds its own line.
An append blob takes 50,000 blocks; then the next begins. What is in one cannot be changed, only another be
put into its place: its count of blocks, and when it was made, tell of that. Whoever wants more gives the
container an immutability policy that allows protected append writes.

https://learn.microsoft.com/rest/api/storageservices/append-block,
https://learn.microsoft.com/azure/storage/blobs/immutable-storage-overview.

Who signs in: ci.entra, with the role Storage Blob Data Contributor on the container; or the account's key,
where AZURE_STORAGE_KEY is set, as for `az storage`.
"""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from ci import entra
from ci.delivery.ledger.chain import Row, entry_of
from ci.delivery.ledger.entry import Entry
from ci.errors import SystemUnavailable
from ci.reasons import reason_of

if TYPE_CHECKING:
    from azure.storage.blob import BlobClient, ContainerClient

__all__ = ["Blobs"]

_MOST_BLOCKS = 50_000
_RETRIES = 3
_CLOCKS = timedelta(minutes=15)
"""As far as two clocks may be apart."""
_ATTEMPTS = 100
"""So often another writer may come first in a row."""


@dataclass
class _Part:
    """What is known of one blob: its size in bytes, and its lines."""

    name: str
    size: int = 0
    lines: int = 0
    blocks: int = 0
    made: datetime | None = None
    begins: datetime | None = None
    """The time of its first entry, by the clock of whoever wrote that."""


class Blobs:
    """The store. Its methods block, and may be called from any thread."""

    def __init__(self, container: str, folder: str, *, most_blocks: int = _MOST_BLOCKS) -> None:
        """`container` is its URL, `folder` what the names of its blobs begin with."""
        self.where = f"{container}/{folder}"
        self._url = container
        self._folder = folder
        self._most = most_blocks
        self._client: ContainerClient | None = None
        self._lock = threading.Lock()
        self._forget()

    def rows(self, first: int) -> tuple[list[Row], int]:
        """The rows from that place on, and how many there are by the count of blocks."""
        with self._asked() as client:
            self._follow(client)
            return self._rows[max(0, first - 1) :], sum(part.blocks for part in self._parts)

    def append(self, make: Callable[[Row | None, int], bytes]) -> None:
        """Add the line that `make` makes of the last row and the count; kept by Azure when this returns."""
        from azure.core.exceptions import HttpResponseError

        with self._asked() as client:
            if not self._rows:
                self._follow(client)
            for _ in range(_ATTEMPTS):
                last = self._rows[-1] if self._rows else None
                content = make(last, sum(part.blocks for part in self._parts)) + b"\n"
                part = self._parts[-1]
                try:
                    if not part.size:
                        _have(client.get_blob_client(part.name))
                    client.get_blob_client(part.name).append_block(
                        content, length=len(content), appendpos_condition=part.size
                    )
                except HttpResponseError as error:
                    if error.status_code != 412:
                        raise
                    known = len(self._rows)
                    self._follow(client)
                    if any(row.line + b"\n" == content for row in self._rows[known:]):
                        return
                    time.sleep(random.uniform(0, 0.05))  # noqa: S311  # nosec B311
                    continue
                self._took(part, content, part.blocks + 1)
                return
        raise SystemUnavailable(
            f"the ledger {self.where} is written to without a pause",
            hint="run the same command again: it goes on from here",
        )

    def check(self) -> list[str]:
        """Read all of it anew; a blob that is younger than its first line has been put there by somebody."""
        with self._asked() as client:
            self._forget()
            self._follow(client)
            return [
                f"{part.name} is a copy of {part.made:%Y-%m-%d %H:%M} UTC, its first entry is older: "
                "what was at its end may be missing"
                for part in self._parts
                if part.made and part.begins and part.made - part.begins > _CLOCKS
            ]

    def close(self) -> None:
        """Let the connections go."""
        with self._lock:
            if self._client is not None:
                self._client.close()
                self._client = None

    def _forget(self) -> None:
        self._rows: list[Row] = []
        self._parts = [_Part(self._name(1))]

    def _name(self, number: int) -> str:
        return f"{self._folder}/{number:06}.jsonl"

    def _follow(self, client: ContainerClient) -> None:
        """Read what came since."""
        from azure.core.exceptions import ResourceNotFoundError

        while True:
            part = self._parts[-1]
            blob = client.get_blob_client(part.name)
            try:
                found = blob.get_blob_properties()
            except ResourceNotFoundError as error:
                if getattr(error, "error_code", "") == "ContainerNotFound" or part.size:
                    raise
                return
            if found.size < part.size:
                self._forget()
                continue
            if found.size > part.size:
                length = found.size - part.size
                content = blob.download_blob(offset=part.size, length=length).readall()
                part.made = found.creation_time
                self._took(part, content, found.append_blob_committed_block_count or 0)
            if self._parts[-1] is part:
                return

    def _took(self, part: _Part, content: bytes, blocks: int) -> None:
        for line in content.removesuffix(b"\n").split(b"\n"):
            part.lines += 1
            row = Row(where=f"{self._url}/{part.name}, line {part.lines}", line=line)
            if part.lines == 1 and isinstance(first := entry_of(row), Entry):
                part.begins = first.time
            self._rows.append(row)
        part.size += len(content)
        part.blocks = blocks
        if blocks >= self._most and part is self._parts[-1]:
            self._parts.append(_Part(self._name(len(self._parts) + 1)))

    @contextmanager
    def _asked(self) -> Iterator[ContainerClient]:
        """The client, for one at a time; what Azure refuses is told in one line."""
        from azure.core.exceptions import AzureError, ClientAuthenticationError

        with self._lock:
            try:
                if self._client is None:
                    self._client = _client(self._url)
                yield self._client
            except ClientAuthenticationError as error:
                if error.status_code is None:  # nobody is signed in: the account was not asked
                    raise entra.not_let_in(error, f"the ledger {self.where}") from error
                raise self._said(error) from error
            except AzureError as error:
                raise self._said(error) from error

    def _said(self, error: Any) -> SystemUnavailable:
        code, status = getattr(error, "error_code", ""), getattr(error, "status_code", None)
        where = f"the ledger {self.where}"
        if code == "ContainerNotFound":
            return SystemUnavailable(
                f"{where}: there is no such container",
                hint=f"az storage container create --name {self._url.rpartition('/')[2]} makes it",
            )
        if status in (401, 403):
            return SystemUnavailable(
                f"{where}: the account refuses this sign-in ({code or status})",
                hint="whoever promotes needs the role Storage Blob Data Contributor on the container",
            )
        if status is not None:
            return SystemUnavailable(f"{where}: {str(error.message).strip().splitlines()[0]}")
        return SystemUnavailable(
            f"{where} was not reached: {reason_of(error)}", hint="the same command goes on from here"
        )


def _client(container: str) -> ContainerClient:
    from azure.core.pipeline.transport import RequestsTransport
    from azure.storage.blob import ContainerClient

    key = os.environ.get("AZURE_STORAGE_KEY")
    account, parts = urlsplit(container), urlsplit(container).path.strip("/").split("/")
    at_home = account.hostname in ("127.0.0.1", "::1", "localhost")
    # On Azure the host names the account, elsewhere (Azurite) the first part of the path does.
    name = parts[0] if len(parts) > 1 else str(account.hostname).partition(".")[0]
    return ContainerClient.from_container_url(
        container,
        credential={"account_name": name, "account_key": key} if key else entra.credential(),
        transport=RequestsTransport(use_env_settings=not at_home),
        retry_total=_RETRIES,
        initial_backoff=1,
        increment_base=2,
        connection_timeout=10,
        read_timeout=30,
    )


def _have(blob: BlobClient) -> None:
    """Make it where it is not there; another writer may have been first."""
    from azure.core import MatchConditions
    from azure.core.exceptions import ResourceExistsError, ResourceModifiedError

    try:
        blob.create_append_blob(match_condition=MatchConditions.IfMissing)
    except (ResourceExistsError, ResourceModifiedError):
        return
