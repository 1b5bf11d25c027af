"""Images that run a Python package: its dependencies in a virtual environment, its source beside it."""

from __future__ import annotations

from dataclasses import dataclass

from ci.concurrency import both
from ci.engine.sdk import dagger
from ci.reporting import Reporter, SilentReporter
from pipelines.images.spec import USER, ImageSpec, debian, with_installer

__all__ = ["PythonImage"]

_VENV = "/opt/venv"
_REDIS = "redis-server --bind 0.0.0.0 --protected-mode no --save '' --dir /tmp"

_UV_INSTALL = (
    f"uv pip install --quiet --python {_VENV}/bin/python --require-hashes --only-binary :all:"
    " --requirements /requirements.txt"
)

# A package's METADATA ends with its README, which nothing reads at run time, and in which examples of keys
# and tokens stand: without it, the scan for secrets needs no exception. The headers, which importlib.metadata
# and the scan read, stay, and RECORD says what is there now.
_WITHOUT_READMES = f"""
import base64, hashlib, pathlib, re
for folder in pathlib.Path("{_VENV}/lib").glob("*/site-packages/*.dist-info"):
    file, record = folder / "METADATA", folder / "RECORD"
    headers = re.split(rb"\\r?\\n\\r?\\n", file.read_bytes(), maxsplit=1)[0] + b"\\n\\n"
    file.write_bytes(headers)
    digest = base64.urlsafe_b64encode(hashlib.sha256(headers).digest()).decode().rstrip("=")
    line = f"{{folder.name}}/METADATA,sha256={{digest}},{{len(headers)}}"
    record.write_text(re.sub(rf"(?m)^{{re.escape(folder.name)}}/METADATA,.*$", line, record.read_text()))
"""

# Compiled by content and in a fixed order: the same wheels give the same bytes.
_INSTALL = f"""
set -eu
uv venv --quiet --python /usr/bin/python3 {_VENV}
{_UV_INSTALL}
{_VENV}/bin/python - <<'END'
{_WITHOUT_READMES}
END
PYTHONHASHSEED=0 {_VENV}/bin/python -m compileall -q --invalidation-mode unchecked-hash {_VENV}/lib
"""


@dataclass(frozen=True, kw_only=True)
class PythonImage(ImageSpec):
    """`module` is what `python -m` runs, from `src`; tested with pytest."""

    module: str
    redis: bool = False
    """Whether its tests want a Redis."""

    @property
    def entrypoint(self) -> tuple[str, ...]:
        return ("python", "-m", self.module)

    @property
    def inputs(self) -> tuple[str, ...]:
        return (f"{self.folder}/src", f"{self.folder}/requirements/runtime.txt", "pipelines/images/python.py")

    async def runtime(self, client: dagger.Client, reporter: Reporter) -> dagger.Container:
        return self._with_source(
            client, self._with_dependencies(client, await debian(client, "base", reporter))
        )

    async def test(self, client: dagger.Client, *, reporter: Reporter | None = None) -> dagger.Container:
        reporter = reporter or SilentReporter()
        base, redis = await both(debian(client, "base", reporter), debian(client, "redis", reporter))
        stage = (
            with_installer(client, self._with_dependencies(client, base))
            .with_mounted_file("/requirements.txt", self.file(client, "requirements/test.txt"))
            .with_exec(["sh", "-c", _UV_INSTALL])
            .with_directory("/reports", client.directory(), owner=USER)
        )
        stage = (
            self.configured(self._with_source(client, stage))
            .with_directory("/app/tests", self.directory(client, "tests", "**/*.py"))
            .with_file("/app/pyproject.toml", self.file(client, "pyproject.toml"))
            .with_env_variable("COVERAGE_FILE", "/tmp/coverage")  # noqa: S108  # nosec B108  # a container's own /tmp
        )
        if self.redis:
            service = redis.with_exposed_port(6379).as_service(args=["sh", "-c", f"exec {_REDIS}"])
            stage = stage.with_service_binding("redis", service).with_env_variable(
                "REDIS_URL", "redis://redis:6379/0"
            )
        return stage.with_exec(
            [
                *("python", "-m", "pytest", "-q", "-p", "no:cacheprovider", "--cov"),
                *("--junitxml=/reports/junit.xml", "--cov-report=xml:/reports/coverage.xml"),
            ],
            expect=dagger.ReturnType.ANY,
        )

    def _with_dependencies(self, client: dagger.Client, base: dagger.Container) -> dagger.Container:
        installed = (
            with_installer(client, base)
            .with_mounted_file("/requirements.txt", self.file(client, "requirements/runtime.txt"))
            .with_exec(["sh", "-c", _INSTALL])
        )
        return (
            base.with_directory(_VENV, installed.directory(_VENV))
            .with_env_variable("PATH", f"{_VENV}/bin:/usr/local/bin:/usr/bin:/bin")
            .with_env_variable("PYTHONUNBUFFERED", "1")
            .with_env_variable("PYTHONDONTWRITEBYTECODE", "1")  # the root file system is read-only
        )

    def _with_source(self, client: dagger.Client, container: dagger.Container) -> dagger.Container:
        return container.with_env_variable("PYTHONPATH", "/app/src").with_directory(
            "/app/src", self.directory(client, "src", "**/*.py", "**/*.sql")
        )
