"""Answers that meet registries and Dockerfiles: pulled images, published ones, and what buildah builds."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ci import registry as registries
from ci.concurrency import together
from ci.engine import oci
from ci.engine.chain import Call
from ci.engine.containers import expanded, with_image
from ci.engine.engine import Engine, NotSupported, answer
from ci.engine.host import file_export
from ci.engine.secrets import plaintext
from ci.engine.store import digest_of, full_disk_is_told
from ci.engine.values import Container, File, Secret
from ci.errors import BadInput, SystemUnavailable
from ci.registry.platforms import Platform, choose, parse_platform, this_machine
from ci.registry.references import Reference, parse_reference

if TYPE_CHECKING:
    from ci.registry import Descriptor, Manifest, Registry

__all__ = ["reference_of"]

_DOCKER_HUB = "registry-1.docker.io"
_LARGEST_CONFIG = 4 * 2**20


def reference_of(address: str) -> Reference:
    """An image's address, with Docker Hub for one that names no registry, and `latest` for one without a
    tag."""
    first, slash, _ = address.partition("/")
    if not slash or not (set(".:") & set(first) or first == "localhost"):
        address = f"{_DOCKER_HUB}/{address if slash else f'library/{address}'}"
    elif first == "docker.io":
        address = f"{_DOCKER_HUB}/{address.partition('/')[2]}"
    found = parse_reference(address)
    return found if found.tag or found.digest else parse_reference(f"{address}:latest")


def _registry(engine: Engine, endpoint: str) -> Registry:
    """As the pipeline says who it is there, else as whoever runs it is signed in."""
    if endpoint in engine.auth:
        return registries.Registry(endpoint, auth=registries.password_auth(*engine.auth[endpoint]))
    return registries.registry_at(endpoint)


@answer("Container.withRegistryAuth")
async def with_registry_auth(engine: Engine, parent: Container, call: Call) -> Container:
    secret: Secret = await engine.value(call.args["secret"])
    password = (await plaintext(engine, secret)).decode()
    engine.auth[_endpoint(call.args["address"])] = (call.args["username"], password)
    return parent


@answer("Container.withoutRegistryAuth")
async def without_registry_auth(engine: Engine, parent: Container, call: Call) -> Container:
    engine.auth.pop(_endpoint(call.args["address"]), None)
    return parent


def _endpoint(address: str) -> str:
    return (
        reference_of(address).registry
        if "/" in address
        else _DOCKER_HUB
        if address == "docker.io"
        else address
    )


@answer("Container.from")
async def container_from(engine: Engine, parent: Container, call: Call) -> Container:
    """An image of a registry. Its tag is asked for once a session; layers that are here are not fetched
    again."""
    if call.args["registryService"]:
        raise NotSupported("Container.from(registryService)", "a registry that this machine reaches")
    reference = reference_of(call.args["address"])
    wanted = parse_platform(parent.platform)
    row = await engine.once(
        ("from", str(reference), parent.platform), lambda: _pulled(engine, reference, wanted)
    )
    name = reference.registry.replace(_DOCKER_HUB, "docker.io")
    tag = f":{reference.tag}" if reference.tag else ""
    return with_image(parent, row, f"{name}/{reference.repository}{tag}@{row['digest']}")


async def _pulled(engine: Engine, reference: Reference, wanted: Platform) -> dict[str, Any]:
    store = engine.store
    last_seen = digest_of("tag", str(reference))
    async with _registry(engine, reference.registry) as registry:
        digest = reference.digest
        if digest is None:
            assert reference.tag is not None
            try:
                manifest = await registry.manifest(reference.repository, reference.tag)
            except SystemUnavailable:
                known = store.result(last_seen)
                if known is None:
                    raise
                engine.reporter.note(f"{reference.registry} does not answer: {reference} as it was last seen")
                digest = known["digest"]
            else:
                digest = manifest.descriptor.digest
                store.replace(last_seen, {"digest": digest})
        variant = [wanted.variant] if wanted != this_machine() else []
        key = digest_of("image 3", digest, *variant)
        known = await asyncio.to_thread(store.result, key)
        if known is not None:
            return known
        told = full_disk_is_told(store.root)
        with engine.reporter.step(f"pull {reference}"), told, store.work("pull") as folder:
            await _download(registry, reference.repository, digest, folder, wanted)
            image = await asyncio.to_thread(oci.read_layout, store, folder)
        return store.keep(
            key,
            {
                "layers": list(image.layers),
                "config": dict(image.config),
                "annotations": {},
                "digest": digest,
            },
        )


async def _download(registry: Registry, repository: str, digest: str, folder: Path, wanted: Platform) -> None:
    """An image of that platform, as an OCI layout in a folder."""
    manifest = await registry.manifest(repository, digest)
    while manifest.manifests:
        rows = json.loads(manifest.raw)["manifests"]
        ours = choose(rows, wanted, of=f"{repository}@{digest}")
        manifest = await registry.manifest(repository, ours["digest"])
    (folder / "blobs" / "sha256").mkdir(parents=True)

    def place(of: str) -> Path:
        return folder / "blobs" / of.replace(":", "/")

    place(manifest.descriptor.digest).write_bytes(manifest.raw)
    if manifest.config and manifest.config.size > _LARGEST_CONFIG:
        raise BadInput(f"{repository}@{digest} has a config of {manifest.config.size} bytes")
    await together(registry.download(repository, blob, place(blob.digest)) for blob in manifest.blobs)
    (folder / "index.json").write_text(json.dumps({"manifests": [{"digest": manifest.descriptor.digest}]}))


@answer("Container.publish")
async def publish(engine: Engine, parent: Container, call: Call) -> str:
    """Push the image; what the registry has is not sent again. Returns its address with the digest."""
    if call.args["registryService"]:
        raise NotSupported("Container.publish(registryService)", "a registry that this machine reaches")
    reference = reference_of(call.args["address"])
    images = await built(engine, parent, call.args)
    manifests = [registries.parse_manifest(image.manifest) for image in images]
    blobs = [
        registries.Blob(
            descriptor=_descriptor(one), source=engine.store.blobs / one.digest.removeprefix("sha256:")
        )
        for one in {layer.digest: layer for image in images for layer in image.layers}.values()
    ]
    blobs += [
        registries.Blob(descriptor=_config_descriptor(manifest), source=image.config)
        for manifest, image in zip(manifests, images, strict=True)
    ]
    if len(images) > 1:
        manifests.append(registries.parse_manifest(oci.index_of(images, docker=_is_docker(call.args))))
    bundle = registries.Bundle(manifests=tuple(manifests), blobs=tuple(blobs))
    with engine.reporter.step(f"publish {reference}"):
        async with _registry(engine, reference.registry) as registry:
            await registries.push(
                registry, reference.repository, bundle, [reference.tag] if reference.tag else []
            )
    return f"{call.args['address'].partition('@')[0]}@{bundle.digest}"


def _is_docker(args: Mapping[str, Any]) -> bool:
    return bool(args["mediaTypes"] == "DockerMediaTypes")


def _descriptor(blob: oci.Blob) -> Descriptor:
    return registries.Descriptor(media_type=blob.media_type, digest=blob.digest, size=blob.size)


def _config_descriptor(manifest: Manifest) -> Descriptor:
    row = json.loads(manifest.raw)["config"]
    return registries.Descriptor(media_type=row["mediaType"], digest=row["digest"], size=row["size"])


async def built(engine: Engine, parent: Container, args: Mapping[str, Any]) -> list[oci.Built]:
    """The container and its variants for other platforms as images, but for those that hold nothing: one, or
    more for an index. BadInput for two of one platform."""
    variants: list[Container] = await asyncio.gather(*(engine.value(one) for one in args["platformVariants"]))
    images = [one for one in (parent, *variants) if one.layers] or [parent]
    platforms = [one.platform for one in images]
    if twice := next((one for one in platforms if platforms.count(one) > 1), None):
        raise BadInput(
            f"duplicate platform {twice!r}: two of the containers are for it",
            hint="leave the container that has the variants without files: dag.container().publish(…)",
        )
    return await asyncio.gather(*(_built(engine, one, args) for one in images))


async def _built(engine: Engine, parent: Container, args: Mapping[str, Any]) -> oci.Built:
    compression = args["forcedCompression"]
    if compression not in (None, "Gzip", "Uncompressed"):
        raise NotSupported(f"compression {compression}", "Gzip or Uncompressed")

    async def blob(layer: str) -> oci.Blob | None:
        def make() -> oci.Blob | None:
            with full_disk_is_told(engine.store.root):
                return oci.layer_blob(engine.store, layer, compression=compression, epoch=engine.epoch)

        return await engine.once(("blob", layer, compression), lambda: asyncio.to_thread(make))

    made = dict(zip(parent.layers, await asyncio.gather(*map(blob, parent.layers)), strict=True))
    image = oci.Image(layers=parent.layers, config=parent.image, annotations=parent.annotations)
    manifest, config, layers = oci.manifest_of(
        engine.store,
        image,
        compression=compression,
        docker=_is_docker(args),
        epoch=engine.epoch,
        comments=parent.comments,
        blob=made.__getitem__,
    )
    said = {key: value for key, value in parent.image.items() if key in ("architecture", "os", "variant")}
    platform = said | parse_platform(parent.platform).as_json()
    return oci.Built(manifest=manifest, config=config, layers=tuple(layers), platform=platform)


@answer("Container.asTarball")
async def as_tarball(engine: Engine, parent: Container, call: Call) -> File:
    """The image as a tar in the OCI layout. The tar is a file of a layer, and found again by the image's
    key."""
    variants: list[Container] = await asyncio.gather(
        *(engine.value(one) for one in call.args["platformVariants"])
    )
    key = digest_of(
        "tarball", [[one.layers, one.image, one.annotations, one.comments] for one in (parent, *variants)],
        call.args["forcedCompression"], call.args["mediaTypes"], engine.epoch, oci.COMPRESSOR,
    )  # fmt: skip

    async def make() -> dict[str, Any]:
        known = await asyncio.to_thread(engine.store.result, key)
        if known:
            return known
        with engine.reporter.step("pack the image"):
            images = await built(engine, parent, call.args)
            return await asyncio.to_thread(write, images)

    def write(images: list[oci.Built]) -> dict[str, Any]:
        with full_disk_is_told(engine.store.root), engine.store.work("tarball") as folder:
            oci.write_archive(
                engine.store, folder / "image.tar", images, engine.epoch, docker=_is_docker(call.args)
            )
            return engine.store.keep(key, {"layers": [engine.store.add_layer(folder, key)]})

    row = await engine.once(key, make)
    return File(tuple(row["layers"]), "image.tar", "image.tar")


@answer("Container.export")
async def container_export(engine: Engine, parent: Container, call: Call) -> str:
    file = await as_tarball(engine, parent, call)
    path = expanded(parent, call.args["path"], call.args["expand"])
    target = Call(call.parent, "String", "export", {"path": path, "allowParentDirPath": False})
    return await file_export(engine, file, target)
