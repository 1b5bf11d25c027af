"""Files as people spoil them: keys dropped, renamed, doubled; other types, units and texts; other bytes.

A mutation is plain data (`Spoil`), so that hypothesis can make it smaller and print it. It works on the text,
not on what the text means: lines stay where they are, as in an editor.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import yaml
from hypothesis import strategies as st

from ci import places
from ci.architecture import model
from ci.architecture.check import check
from ci.environments import read_environments
from ci.errors import BadInput
from ci.scan import read_policy
from ci.scan.waivers import sort_out

CHECKOUT = places.checkout()
FILES = tuple(
    file.relative_to(CHECKOUT)
    for file in sorted(
        [
            *(CHECKOUT / "environments").rglob("*.yaml"),
            CHECKOUT / "policy.yaml",
            CHECKOUT / "helm/waivers.yaml",
        ]
    )
)
TODAY = date(2026, 11, 29)
_FOREIGN = re.compile(
    r"Traceback|<class|pydantic|Input should|NoneType|dictionary|\btuple\b|instance of|\bstr\b|\bdict\b|"
    r"datetime\.|PosixPath|Error\(|\(\?|\\d|\[a-z|literal\[|unhashable|validat|invalid literal"
)
"""What only a programmer knows: types, expressions, names of exceptions."""

VALUES = (
    "null", "~", "", "true", "yes", "no", "on", "off", "0", "-1", "1", "3.5", ".inf", ".nan", "1e400",
    "0x1F", "0o17", "1_000", "12:30:45", "99999999999999999999999", "9" * 5000, "0x"+"f" * 6000,
    "2026-11-29", "2026-13-45", "2026-11-29T10:00:00Z", "2026-11-29 10:00:00 +25:00", "''", "' '", "'\t'",
    '"\\0"', '"\\ud800"', '"\\e[31mred"', "'line\n  line'", "[]", "{}", "[[[]]]", "[1, two, null]",
    "{a: 1}", "{1: 2}", "{? [a] : b}", "[a, [b, {c: d}]]", "&anchor x", "*nobody", "&a [*a]",
    "!!python/object:os.system x", "!!binary aGVsbG8=", "!!binary é", "!!set {a}", "!!bool maybe",
    "!!int many", "!!float much", "!!timestamp soon", "!!null x", "!!str 5", "!mine x", "<<", "!!omap []",
    "5 GB", "5Gi", "5 GiB", "128", "0 GB", "-5 GB", "1.5 TB", "10m", "10 min", "90 seconds", "PT10M",
    "1h30m", "1.5h", "0s", "99999999999999d", "١٠s", "80", "80%", "0.8", "150%", "-3%", "80 percent",
    "1200", "$1,200", "1200 EUR", "10.0.0.0/33", "10.0.0.1/16", "0.0.0.0/0", "10.0.0.0/30", "fe80::/64",
    "10.0.0.0", "westus9", "EastUS", "brazilsouth", "Standard_D4_v5", "Standard_D32s_v5", "nobody",
    "x" * 60, "x" * 70_000, "Große Straße", "a\u0000b", "日本", "🎉", "a.b@c", "latest", "/etc/passwd",
    "../../x", "~nobody/x", "${state}", "${HOME}", "http://x", "ftp://x", "http://[::1", "(((", "[a-",
    "a{99999999999}", "(?P<x", "*", "**", "1.28", '"1.99"', '"1"', "env:", "env:X", "azkv://this/x",
    "azkv://", "3f2504e0-4f89-41d3-9a0c-0305e82c3301", "prod", "dev", "base.yaml", "eastus", "[eastus]",
    "[[eastus]]", "[eastus, eastus]",
)  # fmt: skip
KINDS = (
    "drop", "rename", "double", "value", "value", "value", "value", "move", "under", "cut", "tab", "bytes",
    "bom", "crlf", "indent", "extends", "deep", "alias", "line", "swap",
)  # fmt: skip
BYTES = (
    b"\x00", b"\xff", b"\xc3", b"\xed\xa0\x80", b"\x1b[2J", b"\xe2\x80\xa8", b"\x85", b"\t", b"%YAML 9.9\n",
    b"---\n", b"...\n", b"{{ x }}", b"'", b'"', b"#", b": ", b"- ", b"&", b"*", b"!", b"|", b">", b"@",
    b"`",
)  # fmt: skip


@dataclass(frozen=True)
class Spoil:
    """What is done, to which of the places (a share of them), with which of the things to put there."""

    kind: str
    at: int
    what: int

    def __call__(self, raw: bytes) -> bytes:
        """The file after it."""
        try:
            text = raw.decode()
            nodes = list(_pairs(yaml.compose(text, Loader=yaml.CSafeLoader)))
        except (UnicodeDecodeError, yaml.YAMLError):
            return raw  # spoilt already
        if not nodes:
            return raw
        key, value, others = nodes[self.at % len(nodes)]
        start, end = _offset(text, key.start_mark), _offset(text, value.end_mark)
        value_at = _offset(text, value.start_mark)
        odd = VALUES[self.what % len(VALUES)]
        name = text[start : _offset(text, key.end_mark)]
        match self.kind:
            case "drop":
                text = text[:start] + text[end:].removeprefix(", ")
            case "rename":
                cut = self.what % max(1, len(name))
                new = (name[:cut] + name[cut + 1 :], name + "s", name.upper(), name[::-1], odd)[self.what % 5]
                text = text[:start] + new + text[start + len(name) :]
            case "double":
                column = key.start_mark.column
                gap = (
                    ", "
                    if "\n" not in text[start:end] and "{" in text[start - column : start]
                    else "\n" + " " * column
                )
                text = text[:end].rstrip() + gap + text[start:end] + text[end:]
            case "value":
                text = text[:value_at] + odd + ("\n" if "\n" in text[value_at:end] else "") + text[end:]
            case "move":
                text = text[:start] + text[end:] + "\n" + text[start:end]
            case "under":
                text = text[:value_at] + "{" + name + ": " + odd + "}" + text[end:]
            case "swap":
                other = others[self.what % len(others)]
                wanted = text[_offset(text, other.start_mark) : _offset(text, other.end_mark)]
                text = text[:value_at] + wanted + text[end:]
            case "cut":
                text = text[: value_at + self.what % 40]
            case "tab":
                text = text[:start] + "\t" + text[start:]
            case "bytes":
                at = start + self.what % 30
                return text[:at].encode() + BYTES[self.what % len(BYTES)] + text[at:].encode()
            case "bom":
                return (b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")[self.what % 3] + raw
            case "crlf":
                text = text.replace("\n", ("\r\n", "\r", "\n\r")[self.what % 3])
            case "indent":
                text = text[:start] + " " * (1 + self.what % 4) + text[start:]
            case "extends":
                text = f"extends: {odd}\n" + text.replace("extends:", "extended:")
            case "deep":
                depth = (5, 60, 3000)[self.what % 3]
                text = text[:value_at] + "[" * depth + "]" * depth + text[end:]
            case "alias":
                text = text[:value_at] + "&a " + text[value_at:] + "\nzz: {x: *a, y: [*a, *a]}\n"
            case "line":
                lines = text.splitlines(keepends=True)
                at = self.at % len(lines)
                text = "".join([*lines[:at], *([lines[at]] * (self.what % 3)), *lines[at + 1 :]])
        return text.encode("utf-8", "surrogatepass")


def spoils(most: int = 3) -> st.SearchStrategy[list[Spoil]]:
    """Some mutations, one after the other."""
    one = st.builds(Spoil, st.sampled_from(KINDS), st.integers(0, 2**16), st.integers(0, 2**16))
    return st.lists(one, min_size=1, max_size=most)


def copied(folder: Path) -> Path:
    """The files that are read, in a checkout of their own."""
    for file in FILES:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(CHECKOUT / file, folder / file)
    # What an estate's values are held to.
    shutil.copytree(CHECKOUT / "helm/voice-assistant", folder / "helm/voice-assistant", dirs_exist_ok=True)
    return folder


def complaint(file: Path, checkout: Path) -> str:
    """What is said of a file of that checkout by all that reads it; empty when nothing is wrong.

    BadInput is caught and nothing else.
    """
    environments = checkout / "environments"
    architecture = environments / "architecture"
    said: list[str] = []
    try:
        if file.name == "policy.yaml":
            read_policy(checkout / file)
        elif file.name == "waivers.yaml":
            sort_out([_Found("CKV_K8S_11", "Deployment.voice.voice-api")], checkout / file, today=TODAY)
        elif (checkout / file).is_relative_to(architecture):
            if (checkout / file).parent != architecture:
                found = [model.read_file(checkout / file)]
            else:
                names = model.environments(architecture) if file.stem == "base" else (file.stem,)
                found = [model.read(names[-1], architecture)]
            for declared in found:
                said += [f"{one.place}: {one.reason} {one.fix}" for one in check(declared, today=TODAY)]
        else:
            read_environments("local", root=environments)
    except BadInput as error:
        return f"{error}\n{error.hint}"
    return "\n".join(said)


def foreign(said: str, raw: bytes) -> str | None:
    """A programmer's word in what is said, that the file did not have."""
    return next((one[0] for one in _FOREIGN.finditer(said) if one[0].encode() not in raw), None)


@dataclass(frozen=True)
class _Found:
    id: str
    resource: str


def _pairs(node: Any, depth: int = 0) -> Iterator[tuple[yaml.Node, yaml.Node, list[yaml.Node]]]:
    if depth > 40:
        return
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield key, value, [other for _, other in node.value]
            yield from _pairs(value, depth + 1)
    elif isinstance(node, yaml.SequenceNode):
        for item in node.value:
            yield from _pairs(item, depth + 1)


def _offset(text: str, mark: Any) -> int:
    """Where a mark is in the text; the C parser's own index counts otherwise after a BOM."""
    lines = text.split("\n")
    return min(len(text), sum(len(line) + 1 for line in lines[: mark.line]) + mark.column)
