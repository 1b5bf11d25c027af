"""Built tools in a registry: one signed OCI artifact for what a module of `tools/` builds on one platform.

    box = await find(registry, "tools", "kubernetes", trusted)     # or PolicyBlocked says why not
    await take(registry, box, wanted, told=print)

It has a tag, `kubernetes-<key>-linux-amd64`, and a layer for each tool (an archive of `ci.tools.packing`), so
that whoever wants one tool downloads one. What it is made of, and for which platform, is in the manifest, and
that is what is signed: a tag can be moved by anybody who may push, and proves nothing. All of it is verified
in this process (`ci.supply.signing`): taking tools needs none of them.

The layout follows the OCI image specification 1.1, "Guidance for an artifact manifest".
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ci.concurrency import together
from ci.environments import TrustedSigner
from ci.errors import BadInput, PolicyBlocked, SystemUnavailable
from ci.registry import Blob, Bundle, Descriptor, Manifest, Reference, Registry, artifact
from ci.supply.signing import signature_of
from ci.tools import go
from ci.tools.packing import pack, unpack
from ci.tools.sources import build_digest, build_key, this_platform
from ci.tools.table import GoTool, of_go

__all__ = ["Box", "Toolbox", "box_of", "find", "tag_of", "take"]

_TYPE = "application/vnd.voice-assistant.tools.v1"
_LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
_TITLE = "org.opencontainers.image.title"
_UNPACKED = "dev.va.tool.bytes"
_LARGEST_BYTES = 2**31
"""The most that one tool may take, packed and unpacked: the largest has a tenth of it."""
_AT_ONCE = 4


@dataclass(frozen=True, kw_only=True)
class Box:
    """A toolbox to push: `tools` are in it, `added` are not yet where it goes."""

    tag: str
    tools: tuple[str, ...]
    added: tuple[str, ...]
    bundle: Bundle


@dataclass(frozen=True, kw_only=True)
class Toolbox:
    """What a registry has of a module, for this platform, by the word of `signed_by`."""

    reference: Reference
    signed_by: str
    layers: Mapping[str, Descriptor]
    """By the tool's name. What is not in it was not built by whoever pushed it."""


def tag_of(module: str, platform: str | None = None) -> str:
    """The tag for what `tools/<module>` builds as it is now."""
    return f"{module}-{build_key(module)}-{(platform or this_platform()).replace('/', '-')}"


async def find(
    registry: Registry, repository: str, module: str, trusted: Sequence[TrustedSigner]
) -> Toolbox | None:
    """The tools that were built of the same files for the same platform, signed by one who is trusted.

    None when there are none. PolicyBlocked when there are some that are not to be believed;
    SystemUnavailable when the registry does not answer; BadInput when the file of a signer cannot be used.
    """
    tag = tag_of(module)
    manifest = await registry.find_manifest(repository, tag)
    if manifest is None:
        return None
    reference = Reference(
        registry=registry.endpoint, repository=repository, tag=tag, digest=manifest.descriptor.digest
    )
    signature = await signature_of(registry, repository, manifest.descriptor.digest, trusted)
    _check(reference, manifest, module)
    layers = {(one.annotations or {}).get(_TITLE, ""): one for one in manifest.layers}
    return Toolbox(
        reference=reference,
        signed_by=signature.who,
        layers={tool.name: layers[tool.name] for tool in of_go(module) if tool.name in layers},
    )


def _check(reference: Reference, manifest: Manifest, module: str) -> None:
    """PolicyBlocked when what is signed is no toolbox, or one of something else under this tag."""
    wanted = _says(module)
    said = {name: manifest.annotations.get(name, "nothing") for name in wanted}
    if manifest.artifact_type != _TYPE:
        raise PolicyBlocked(f"{reference} holds no tools, but {manifest.artifact_type or 'something else'}")
    if wrong := [
        f"{name} is {said[name]}, not {wanted[name]}" for name in wanted if said[name] != wanted[name]
    ]:
        raise PolicyBlocked(f"{reference} holds other tools than its tag says: {'; '.join(wrong)}")
    for layer in manifest.layers:
        unpacked = (layer.annotations or {}).get(_UNPACKED, "")
        if not re.fullmatch(r"\d{1,12}", unpacked) or max(int(unpacked), layer.size) > _LARGEST_BYTES:
            raise PolicyBlocked(f"{reference}: {layer.digest} is too large, or does not say how large it is")


def _says(module: str) -> Mapping[str, str]:
    return {
        "dev.va.tools.module": module,
        "dev.va.tools.inputs": f"sha256:{build_digest(module)}",
        "dev.va.tools.platform": this_platform(),
    }


async def take(
    registry: Registry,
    box: Toolbox,
    tools: Iterable[GoTool],
    *,
    bench: Path,
    told: Callable[[int], None] = lambda _: None,
) -> None:
    """Have these tools of the box where `ci.tools` looks. Each is moved there whole, or not at all.

    `bench` is an empty folder on that disk; `told` is how many bytes have come. SystemUnavailable when the
    registry does not give the bytes that were signed; BadInput when those are no archive of the tool.
    """
    slots = asyncio.Semaphore(_AT_ONCE)
    arrived: dict[str, int] = {}
    origin = f"{box.reference}, signed by {box.signed_by}"

    async def one(tool: GoTool) -> None:
        layer = box.layers[tool.name]
        size = int((layer.annotations or {})[_UNPACKED])

        def progress(bytes_: int) -> None:
            arrived[tool.name] = bytes_
            told(sum(arrived.values()))

        async with slots:
            archive, folder = bench / f"{tool.name}.tar.gz", bench / f"{tool.name}.d"
            folder.mkdir()
            try:
                await registry.download(box.reference.repository, layer, archive, progress=progress)
                made = await asyncio.to_thread(unpack, archive, tool.name, folder, size)
            except BadInput as error:
                raise SystemUnavailable(f"{box.reference}: {tool.name} cannot be taken: {error}") from error
            archive.unlink()
            go.keep(tool, made, taken_from=origin)

    await together(one(tool) for tool in tools)


async def box_of(
    registry: Registry,
    repository: str,
    module: str,
    trusted: Sequence[TrustedSigner],
    *,
    bench: Path,
    packing: Callable[[str], None] = lambda _: None,
    sent: Callable[[int], None] = lambda _: None,
) -> Box:
    """The box to push: what of it is there and believed, and beside that what is made here of the module.

    What is there is not packed again. `bench` is an empty folder for archives, which the box reads when it is
    pushed; `packing` and `sent` are told how it goes. SystemUnavailable when the registry does not answer.
    """
    try:
        there = await find(registry, repository, module, trusted)
    except PolicyBlocked:
        there = None  # nobody takes that: it is replaced
    kept = there.layers if there else {}
    sizes = await together(registry.blob_size(repository, layer.digest) for layer in kept.values())
    kept = {
        name: layer for (name, layer), size in zip(kept.items(), sizes, strict=True) if size == layer.size
    }
    slots = asyncio.Semaphore(_AT_ONCE)

    async def one(tool: GoTool) -> Blob:
        async with slots:
            packing(f"packing {tool.name}")
            return await asyncio.to_thread(_packed, tool, bench, sent)

    missing = [tool for tool in of_go(module) if tool.name not in kept and go.made_at(tool).exists()]
    added = {tool.name: blob for tool, blob in zip(missing, await together(map(one, missing)), strict=True)}
    layers = {**kept, **{name: blob.descriptor for name, blob in added.items()}}
    bare = artifact(
        artifact_type=_TYPE, layers=tuple(layers[name] for name in sorted(layers)), annotations=_says(module)
    )
    return Box(
        tag=tag_of(module),
        tools=tuple(sorted(layers)),
        added=tuple(added),
        bundle=replace(bare, blobs=(*bare.blobs, *added.values())),
    )


@dataclass(frozen=True, kw_only=True)
class _Counted(Blob):
    """A blob that tells how many of its bytes are read, piece by piece."""

    told: Callable[[int], None]

    def chunks(self, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
        for piece in super().chunks(start, stop):
            yield piece
            self.told(len(piece))


def _packed(tool: GoTool, bench: Path, sent: Callable[[int], None]) -> Blob:
    archive = bench / f"{tool.name}.tar.gz"
    unpacked = pack(go.made_at(tool), archive)
    with archive.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    descriptor = Descriptor(
        media_type=_LAYER,
        digest=f"sha256:{digest}",
        size=archive.stat().st_size,
        annotations={_TITLE: tool.name, _UNPACKED: str(unpacked)},
    )
    return _Counted(descriptor=descriptor, source=archive, told=sent)
