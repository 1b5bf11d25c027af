"""Which rights a Dockerfile asks for, however its lines are written."""

from __future__ import annotations

import pytest

from ci.engine.dockerfiles import asks_for_more


@pytest.mark.parametrize(
    "dockerfile",
    [
        "FROM a\nRUN --network=host id",
        "FROM a\nrun\t--security=insecure id",
        "FROM a\r\nRUN --network=host id\r\n",
        "\tRUN --mount=type=tmpfs,target=/x --network=host id",
        "FROM a\nRUN \\\n  --network=host id",
        "FROM a\nRUN \\  \n\n# a comment \\\n  --network=host id",
        "FROM a\nRUN --mount=type=tmpfs,target=/x \\\n --security=insecure \\\n id",
        "# escape=`\nFROM a\nRUN `\n --network=host id",
        "FROM a\nRU\\\nN --net\\\nwork=host id",
        "FROM a\nONBUILD RUN --network=host id",
        "FROM a\nONBUILD \\\nRUN --network=host id",
        'FROM a\nRUN --network="host" id',
        "FROM a\nRUN --mount=type=bind,source='a b' --net\"work\"=h\\ost id",
        "ARG n=host\nFROM a\nRUN --network=$n id",
        "FROM a\n# a comment that does not go on \\\nRUN --network=host id",
        "FROM a\nRUN <<'E\\'\necho\nE\\\nRUN --network=host id",
        'FROM a\nRUN --mount="unfinished --network=host',
    ],
)
def test_what_asks_for_more(dockerfile: str) -> None:
    assert asks_for_more(dockerfile)


@pytest.mark.parametrize(
    "dockerfile",
    [
        "FROM a\nRUN curl --network=host b",
        "FROM a\n# RUN --network=host id",
        "FROM a\nRUN --network=none --security=sandbox id --network=host",
        "FROM a\nRUN --network=default id && \\\n docker run --network=host b",
        "FROM a\nRUN <<E\nrunc --network=host\nE\n",
        "FROM a\nCMD --network=host\nLABEL a=b \\\n --network=host",
        'FROM a\nRUN ["a", "--network=host"]',
        "FROM a\nRUN -- network=host",
        "",
    ],
)
def test_what_is_only_mentioned(dockerfile: str) -> None:
    assert not asks_for_more(dockerfile)
