"""What of a Dockerfile Debian 12's buildah does not know."""

from __future__ import annotations

import pytest

from ci.engine.syntax import unknown


@pytest.mark.parametrize(
    ("dockerfile", "told"),
    [
        ("FROM a\n\nRUN <<EOT\nCOPY --link a b\nEOT\nCOPY --link a b", ["3: RUN <<", "6: COPY --link"]),
        ("FROM a\nCOPY --from=b --parents --chown=1 x /", ["2: COPY --parents"]),
        ("FROM a\nADD --checksum=sha256:0 --exclude=*.c x /", ["2: ADD --checksum", "2: ADD --exclude"]),
        ("FROM a\nrun --network=none --mount=type=tmpfs,target=/t id", ["2: RUN --network"]),
        ("FROM a\nONBUILD RUN --security=sandbox id", ["2: RUN --security"]),
        ("FROM a\n# x\nRUN a <<-'end' && \\\n # x\n  id\n\tx\n\tend\nUSER ${U#x}", ["3: RUN", "8: USER"]),
        ("FROM a\nCOPY <<one <<two /d/\nRUN --link id\none\nFROM\ntwo\nENV A=${B/c}", ["2: COPY", "7: ENV"]),
        ("# syntax=docker/x:1\n# escape=`\nFROM a\nCOPY `\n\n# x\n --link c:\\ /", ["4: COPY --link"]),
        ("FROM a\nHEALTHCHECK --interval=1s --start-interval=2s CMD id", ["2: HEALTHCHECK --start-interval"]),
        ("FROM a\r\nCOPY --link a b\r\n", ["2: COPY --link"]),
        ("FROM a\nRUN <<never\nid", ["2: RUN <<"]),
        ("FROM a\n\nWORKDIT /x\nONBUILD entry /x\nX", ["3: WORKDIT", "4: entry", "5: X"]),
    ],
)  # fmt: skip
def test_what_is_not_known_is_told_by_its_line(dockerfile: str, told: list[str]) -> None:
    found = unknown(dockerfile)

    for text, start in zip(found, told, strict=True):
        assert text.startswith(f"line {start}"), found
    assert all(text.partition(": ")[2] and "\n" not in text for text in found)


@pytest.mark.parametrize(
    "dockerfile",
    [
        "FROM --platform=linux/amd64 a AS b\nCOPY --from=b --chown=1:1 --chmod=755 x /\nADD --chown=1 x /",
        "FROM a\nRUN --mount=type=secret,id=x cat /run/secrets/x --network",
        'FROM a\nRUN echo "$((1<<K))" && cat <<<word\nENV A=${B:-c} D=${E:+f}',
        "FROM a\n# COPY --link a b\nRUN a \\\n  --link \\\n # RUN <<E\n b",
        'FROM a\nRUN echo ${A%.c} ${A/x/y}\nCMD ["--link", "<<E"]\nLABEL a="--link"',
        "",
        "\\\n\\",
        "# nothing",
    ],
)
def test_what_is_known_is_not_told(dockerfile: str) -> None:
    assert unknown(dockerfile) == []
