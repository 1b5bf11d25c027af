"""Moving whole artifacts: push one into a repository, and prove by digest that all of it is there."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from ci.concurrency import both, together
from ci.errors import SystemUnavailable
from ci.registry.blobs import Outcome
from ci.registry.client import Registry
from ci.registry.content import Blob, Bundle, Manifest

__all__ = ["Pushed", "missing", "push"]


@dataclass(frozen=True, kw_only=True)
class Pushed:
    """What a push did: how many blobs were there, mounted from another repository, or sent."""

    digest: str
    there: int
    mounted: int
    sent: int
    bytes_sent: int
    found: frozenset[str] = field(repr=False)
    """`repository@digest` of all manifests and blobs of the bundle, which the registry was found to have."""

    @property
    def unchanged(self) -> bool:
        """Whether the registry had all of it before."""
        return not self.sent and not self.mounted


async def push(registry: Registry, repository: str, bundle: Bundle, tags: Iterable[str] = ()) -> Pushed:
    """Have this bundle in a repository: send only what is missing, then prove by digest that it is there.

    Blobs go in parallel, then the manifests, children first: while it runs, nobody can pull a half of it.
    What is whole already costs one round of requests. SystemUnavailable when the registry lost some of it.
    """

    async def named(tag: str) -> bool:
        found = await registry.find_manifest(repository, tag)
        return found is not None and found.descriptor.digest == bundle.digest

    wanted_tags = tuple(tags)
    before, names_it = await both(
        missing(registry, repository, bundle), together(named(tag) for tag in wanted_tags)
    )
    wanted = [blob for blob in bundle.blobs if blob.descriptor.digest in before]
    outcomes = await together(registry.push_blob(repository, blob) for blob in wanted)
    for manifest in bundle.manifests:
        if manifest.descriptor.digest in before:
            await registry.put_manifest(repository, manifest)
    if before and (lost := await missing(registry, repository, bundle)):
        raise SystemUnavailable(
            f"{registry.endpoint}/{repository}@{bundle.digest} was pushed, but there is no {', '.join(lost)}",
            hint="run the same command again; if it stays so, the storage of the registry is damaged",
        )
    for tag, right in zip(wanted_tags, names_it, strict=True):
        if not right:
            await registry.put_manifest(repository, bundle.root, tag)
    digests = [
        *(manifest.descriptor.digest for manifest in bundle.manifests),
        *(blob.descriptor.digest for blob in bundle.blobs),
    ]
    sent = [blob for blob, what in zip(wanted, outcomes, strict=True) if what is Outcome.SENT]
    mounted = outcomes.count(Outcome.MOUNTED)
    return Pushed(
        digest=bundle.digest,
        there=len(bundle.blobs) - len(sent) - mounted,
        mounted=mounted,
        sent=len(sent),
        bytes_sent=sum(blob.descriptor.size for blob in sent),
        found=frozenset(f"{repository}@{digest}" for digest in digests),
    )


async def missing(registry: Registry, repository: str, bundle: Bundle) -> tuple[str, ...]:
    """The digests of manifests, configs and layers of the bundle that the repository lacks.

    One round of requests: manifests are fetched and their bytes checked, of blobs presence and size.
    """

    async def manifest_absent(manifest: Manifest) -> str | None:
        digest = manifest.descriptor.digest
        return None if await registry.find_manifest(repository, digest) else digest

    async def blob_absent(blob: Blob) -> str | None:
        size = await registry.blob_size(repository, blob.descriptor.digest)
        return None if size == blob.descriptor.size else blob.descriptor.digest

    checks = [*map(manifest_absent, bundle.manifests), *map(blob_absent, bundle.blobs)]
    return tuple(digest for digest in await together(checks) if digest)
