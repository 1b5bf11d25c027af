"""LiveKit's server as an image of ours: the pinned Go program, certificates to trust, and nothing else.

It is in no release: it changes when `tools/livekit-server` does, and promoting a release must not move the
calls of all others. `va livekit publish` makes it.
"""

from __future__ import annotations

from dataclasses import dataclass

from ci import tools
from ci.concurrency import both
from ci.engine.sdk import dagger
from ci.reporting import Reporter, SilentReporter
from pipelines.images.spec import BUNDLE, USER, ImageSpec, debian, with_installer

__all__ = ["LiveKitImage"]

_PROGRAM = "/usr/bin/livekit-server"
_VENV = "/opt/venv"
_INSTALL = f"""
set -eu
uv venv --quiet --python /usr/bin/python3 {_VENV}
uv pip install --quiet --python {_VENV}/bin/python --require-hashes --only-binary :all: \
    --requirements /requirements.txt
"""
_KEY, _SECRET = "under-test", "a-secret-that-opens-nothing-but-a-test"
_CONFIG = """
port: 7880
bind_addresses: [0.0.0.0]
rtc: {tcp_port: 7881, udp_port: 7882, use_external_ip: false}
logging: {level: info, json: true}
"""


@dataclass(frozen=True, kw_only=True)
class LiveKitImage(ImageSpec):
    """Tested with pytest against a server that runs from it; the tests are in its folder."""

    @property
    def entrypoint(self) -> tuple[str, ...]:
        return (_PROGRAM,)

    @property
    def inputs(self) -> tuple[str, ...]:
        return ("tools/livekit-server", "pipelines/images/livekit.py")

    async def runtime(self, client: dagger.Client, reporter: Reporter) -> dagger.Container:
        base, program = await both(debian(client, "base", reporter), tools.built("livekit-server", reporter))
        return (
            client.container()
            .with_file(BUNDLE, base.file(BUNDLE))
            .with_file(_PROGRAM, client.host().file(str(program)), permissions=0o755)
        )

    async def test(self, client: dagger.Client, *, reporter: Reporter | None = None) -> dagger.Container:
        reporter = reporter or SilentReporter()
        base, image = await both(debian(client, "base", reporter), self.runtime(client, reporter))
        server = (
            self.configured(image)
            .with_env_variable("LIVEKIT_CONFIG", _CONFIG)
            .with_env_variable("LIVEKIT_KEYS", f"{_KEY}: {_SECRET}")
            .as_service(args=[_PROGRAM])
        )
        return (
            with_installer(client, base)
            .with_mounted_file("/requirements.txt", self.file(client, "requirements/test.txt"))
            .with_exec(["sh", "-c", _INSTALL])
            .with_directory("/reports", client.directory(), owner=USER)
            .with_workdir("/app")
            .with_directory("tests", self.directory(client, "tests", "*.py"))
            .with_user(f"{USER}:{USER}")
            .with_env_variable("LIVEKIT_URL", "http://livekit:7880")
            .with_env_variable("LIVEKIT_KEY", _KEY)
            .with_env_variable("LIVEKIT_SECRET", _SECRET)
            .with_service_binding("livekit", server)
            .with_exec(
                [
                    *(f"{_VENV}/bin/python", "-m", "pytest", "-q", "-p", "no:cacheprovider"),
                    "--junitxml=/reports/junit.xml",
                ],
                expect=dagger.ReturnType.ANY,
            )
        )
