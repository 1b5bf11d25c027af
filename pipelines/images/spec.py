"""What all images have in common: where they come from, who they run as, what they say of themselves."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from dataclasses import dataclass

import uv

from ci import places
from ci.build.base_image import Recipe, root_archive
from ci.build.source import read_commit
from ci.engine.sdk import dagger
from ci.release import Commit
from ci.reporting import Reporter, SilentReporter

__all__ = ["BUNDLE", "USER", "ImageSpec", "debian", "with_installer"]

USER = "10001"
BUNDLE = "/etc/ssl/certs/ca-certificates.crt"
_BASE_FOLDER = "images/base"
_SHARED = (_BASE_FOLDER, "ci/build/base_image.py", "pipelines/images/spec.py")
_INDEX_VARIABLES = ("UV_DEFAULT_INDEX", "UV_INDEX_URL", "PIP_INDEX_URL")


@dataclass(frozen=True, kw_only=True)
class ImageSpec(ABC):
    """One image: `name` is its repository, `folder` its source. A subclass is one way to make images."""

    name: str
    folder: str
    ports: tuple[int, ...]
    fault_flag: bool = False
    """Whether it can be told to fail, for a release that is bad on purpose."""

    @property
    @abstractmethod
    def entrypoint(self) -> tuple[str, ...]:
        """What it runs."""

    @property
    @abstractmethod
    def inputs(self) -> tuple[str, ...]:
        """What of its folder goes into it, and the modules that say how."""

    @abstractmethod
    async def runtime(self, client: dagger.Client, reporter: Reporter) -> dagger.Container:
        """Its file system and environment."""

    @abstractmethod
    async def test(self, client: dagger.Client, *, reporter: Reporter | None = None) -> dagger.Container:
        """The image after its tests: /reports has junit.xml and coverage.xml, whether or not all passed."""

    async def build(
        self,
        client: dagger.Client,
        *,
        reporter: Reporter | None = None,
        fault: float | None = None,
    ) -> dagger.Container:
        """The runtime image. `fault` bakes a share of requests that fail into images that have that flag."""
        image = self.configured(await self.runtime(client, reporter or SilentReporter()))
        # Of what goes into this image: a commit that changes nothing of that leaves its digest as it is.
        commit = await read_commit(places.checkout(), *self.inputs, *_SHARED)
        if fault is not None and self.fault_flag:
            image = image.with_env_variable("FAULT_ERROR_RATE", str(fault))
        return _labelled(image, self.name, commit)

    def configured(self, container: dagger.Container) -> dagger.Container:
        """The container with the image's user, ports and entry point."""
        for port in self.ports:
            container = container.with_exposed_port(port)
        return (
            container.with_workdir("/app").with_user(f"{USER}:{USER}").with_entrypoint(list(self.entrypoint))
        )

    # Each part of the source by itself: what is made from one must not be made anew when another changes.

    def file(self, client: dagger.Client, name: str) -> dagger.File:
        """One file of its folder."""
        return client.host().file(str(places.checkout() / self.folder / name))

    def directory(self, client: dagger.Client, name: str, *include: str) -> dagger.Directory:
        """One folder of its folder; of it what matches `include`."""
        return client.host().directory(str(places.checkout() / self.folder / name), include=list(include))


async def debian(client: dagger.Client, name: str, reporter: Reporter) -> dagger.Container:
    """A Debian to build on: `base`, or another of `images/base/<name>-packages.txt`."""
    folder = places.checkout() / _BASE_FOLDER
    packages = "packages.txt" if name == "base" else f"{name}-packages.txt"
    recipe = Recipe(name=name, packages=folder / packages, customize=folder / "customize.sh")
    return client.container().import_(client.host().file(str(await root_archive(recipe, reporter))))


def with_installer(client: dagger.Client, container: dagger.Container) -> dagger.Container:
    """uv, its cache and this machine's package index, while something is installed; none of it stays."""
    container = (
        container.with_mounted_file("/usr/local/bin/uv", client.host().file(uv.find_uv_bin()))
        .with_mounted_cache("/root/.cache/uv", client.cache_volume("va-uv"))
        .with_env_variable("UV_LINK_MODE", "copy")
        .with_env_variable("UV_PYTHON_DOWNLOADS", "never")
        .with_env_variable("SSL_CERT_FILE", BUNDLE)
    )
    for name in _INDEX_VARIABLES:
        if given := os.environ.get(name):
            # It may hold a password.
            return container.with_secret_variable(
                "UV_DEFAULT_INDEX", client.set_secret("package-index", given)
            )
    return container


def _labelled(image: dagger.Container, name: str, commit: Commit) -> dagger.Container:
    labels = {
        "title": name,
        "revision": commit.sha + ("-dirty" if commit.dirty else ""),
        "created": commit.time.strftime("%Y-%m-%dT%H:%M:%SZ"),
    }
    for key, value in labels.items():
        image = image.with_label(f"org.opencontainers.image.{key}", value)
    return image
