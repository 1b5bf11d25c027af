"""What Debian 12's buildah does not know of a Dockerfile: said by line before it builds, with what to do.

It would take the lines of a heredoc for instructions, and names no line for what else it does not know, or
for an instruction that there is not. The syntax is that of docs.docker.com/reference/dockerfile; what buildah
1.28 takes of it was tried.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from difflib import get_close_matches

__all__ = ["KNOWS_ALL", "unknown"]

KNOWS_ALL = (1, 33)
"""The first buildah that reads heredocs. What one as new does not know, it says itself."""
_INSTRUCTIONS = (
    "ADD", "ARG", "CMD", "COPY", "ENTRYPOINT", "ENV", "EXPOSE", "FROM", "HEALTHCHECK", "LABEL", "MAINTAINER",
    "ONBUILD", "RUN", "SHELL", "STOPSIGNAL", "USER", "VOLUME", "WORKDIR",
)  # fmt: skip
_OPTIONS = {
    "ADD": {"chmod", "chown"},
    "COPY": {"chmod", "chown", "from"},
    "HEALTHCHECK": {"interval", "retries", "start-period", "timeout"},
    "RUN": {"mount"},
}
"""The options that it knows; of instructions that are not here it knows all."""
_INSTEAD = {
    "checksum": "check it in a RUN: sha256sum -c",
    "exclude": "name what stays out in .dockerignore, or copy the parts",
    "keep-git-dir": "clone it in a RUN",
    "link": "leave it out: only what is cached depends on it",
    "network": "leave it out: a RUN has the network of a step",
    "parents": "copy each folder to a place of its own",
    "security": "leave it out: a RUN is in the sandbox",
    "start-interval": "leave it out",
}
_HEREDOC = re.compile(r"""(?:^|\s)\d*<<(-?)(["']?)([A-Za-z_][\w.]*)\2(?=\s|$)""")
_SUBSTITUTION = re.compile(r"\$\{\w+(?:#|%|/|:[^-+?])")
_SUBSTITUTED = {"ADD", "COPY", "ENV", "EXPOSE", "FROM", "LABEL", "STOPSIGNAL", "USER", "VOLUME", "WORKDIR"}
_ESCAPE = re.compile(r"#\s*escape\s*=\s*([\\`])\s*", re.IGNORECASE)
_DIRECTIVE = re.compile(r"#\s*\w+\s*=.*")


def unknown(dockerfile: str) -> list[str]:
    """What it does not know, one text for each: `line 3: COPY --link: …`."""
    found = []
    for number, text in _instructions(dockerfile):
        words = text.split()
        if words[0].upper() == "ONBUILD":
            words = words[1:] or words
        name = words[0].upper()
        if name not in _INSTRUCTIONS:
            nearest = "".join(f"; did you mean {one}?" for one in get_close_matches(name, _INSTRUCTIONS, 1))
            found.append(f"line {number}: {words[0]}: no instruction of a Dockerfile{nearest}")
        for word in words[1:]:
            if not word.startswith("--"):
                break
            option = word[2:].partition("=")[0]
            if name in _OPTIONS and option not in _OPTIONS[name]:
                instead = _INSTEAD.get(option, "leave it out")
                found.append(f"line {number}: {name} --{option}: {instead}")
        if name in ("ADD", "COPY", "RUN") and _HEREDOC.search(text):
            instead = "join the commands by &&" if name == "RUN" else "put the text into a file and copy that"
            found.append(f"line {number}: {name} <<: {instead}")
        if name in _SUBSTITUTED and (match := _SUBSTITUTION.search(text)):
            found.append(f"line {number}: {name} {match[0]}…}}: say the value, or compute it in a RUN")
    return found


def _instructions(dockerfile: str) -> Iterator[tuple[int, str]]:
    """Each instruction with the number of its first line, on one line; without the bodies of heredocs."""
    lines = dockerfile.split("\n")
    escape, number = _escape(lines), 0
    while number < len(lines):
        first, text, more = number, "", True
        while more and number < len(lines):
            line = lines[number].rstrip()
            number += 1
            if line.lstrip().startswith("#") or (not line and text):
                continue  # comments and empty lines do not end an instruction
            if not text.strip():
                first = number
            more = line.endswith(escape)
            text += line.removesuffix(escape)
        if not text.strip():
            continue
        yield first, text.strip()
        if text.split()[0].upper() in ("ADD", "COPY", "RUN", "ONBUILD"):
            for dash, _, word in _HEREDOC.findall(text):
                while number < len(lines):
                    line = lines[number].rstrip("\r")
                    number += 1
                    if (line.lstrip("\t") if dash else line) == word:
                        break


def _escape(lines: list[str]) -> str:
    """The character that joins lines: what a directive at the beginning says, or a backslash."""
    for line in lines:
        if match := _ESCAPE.fullmatch(line.strip()):
            return match[1]
        if not _DIRECTIVE.fullmatch(line.strip()):
            break
    return "\\"
