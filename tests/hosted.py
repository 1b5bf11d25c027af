"""GitHub on this machine: `act` runs the real workflows, step by step, against a repository of a test's own.

What stands in, and nothing else: the third-party actions (`_ACTIONS`, each under the very commit that the
workflow pins), GitHub's API (`Api`), and what a machine that GitHub lends has: a Python with our packages, a
Debian that has what is installed. Each job's checkout also lays out what GitHub gives to that job alone:
`runners` says it by the job's name, and only a job with `id-token: write` gets what a token is had by.

act has no environments (so no reviewers, and variables are the repository's), no groups of runners, no
concurrency, no rights of the token, and no containers without Docker: `container:` is taken out of the copy
that is run. https://nektosact.com/not_supported.html
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import yaml
from listening import listening

from ci import places, tools

__all__ = ["REPOSITORY", "TOKEN", "Api", "Hosted", "Ran", "api_of", "hosted"]

REPOSITORY = "o/r"
WORKFLOWS = ".github/workflows"
TOKEN = "the-jobs-own"
_KEPT = ("PATH", "LANG", "HOME", "TMPDIR", "TZ")
_SETTINGS = ("pip_", "uv_", "npm_config_", "go", "ssl_cert_", "http_proxy", "https_proxy", "no_proxy")
"""What package clients are told of registries."""

_CHECKOUT = """
name: checkout
inputs: {persist-credentials: {default: "true"}, ref: {default: ""}, fetch-depth: {default: "1"}}
runs:
  using: composite
  steps:
    - shell: bash
      env: {REF: "${{ inputs.ref }}"}
      run: |
        git init --quiet . && git fetch --quiet "$HOSTED/repository.git" "+refs/*:refs/remotes/origin/*"
        git checkout --quiet --detach "${REF:-$GITHUB_SHA}"
        mkdir .venv && ln -s "$HOSTED_PYTHON"/{bin,lib,pyvenv.cfg} .venv/
        cp requirements/dev.txt .venv/.lock
        echo "PYTHONPATH=$GITHUB_WORKSPACE" >> "$GITHUB_ENV"
        cat "$HOSTED/runners/$GITHUB_JOB" >> "$GITHUB_ENV"
"""
_UPLOAD = """
name: upload
inputs: {name: {default: artifact}, path: {required: true}, if-no-files-found: {default: warn},
         compression-level: {default: "6"}, retention-days: {default: "90"}}
outputs: {artifact-id: {value: "${{ steps.it.outputs.artifact-id }}"}}
runs:
  using: composite
  steps:
    - id: it
      shell: bash
      env: {NAME: "${{ inputs.name }}", PATHS: "${{ inputs.path }}", NONE: "${{ inputs.if-no-files-found }}"}
      run: |
        cd "$GITHUB_WORKSPACE"
        there=() && while read -r one; do
          if [ -n "$one" ] && [ -e "$one" ]; then there+=("$one"); fi
        done <<< "$PATHS"
        [ "${#there[@]}" -gt 0 ] || { [ "$NONE" != error ]; exit; }
        to=$HOSTED/artifacts/$NAME && rm -rf "$to" && mkdir "$to"
        if [ "${#there[@]}" = 1 ] && [ -d "${there[0]}" ]; then cp -r "${there[0]}/." "$to"
        else cp -r --parents "${there[@]}" "$to"; fi
        echo "artifact-id=7" >> "$GITHUB_OUTPUT"
"""
_DOWNLOAD = """
name: download
inputs: {name: {default: ""}, pattern: {default: ""}, path: {default: "."}}
runs:
  using: composite
  steps:
    - shell: bash
      env: {NAME: "${{ inputs.name }}", PATTERN: "${{ inputs.pattern }}", TO: "${{ inputs.path }}"}
      run: |
        mkdir -p "$TO"
        if [ -n "$NAME" ]; then cp -r "$HOSTED/artifacts/$NAME/." "$TO"
        else find "$HOSTED/artifacts" -mindepth 1 -maxdepth 1 -name "$PATTERN" -exec cp -r {} "$TO" ';'; fi
"""
_PYTHON = """
name: python
inputs: {python-version: {required: true}}
runs:
  using: composite
  steps:
    - shell: bash
      env: {WANTED: "${{ inputs.python-version }}"}
      run: python3 --version | grep -F "Python $WANTED."
"""
_SARIF = """
name: sarif
inputs: {sarif_file: {required: true}, category: {required: true}}
runs:
  using: composite
  steps:
    - shell: bash
      env: {FILE: "${{ inputs.sarif_file }}", OF: "${{ inputs.category }}"}
      run: mkdir -p "$HOSTED/alerts/$OF" && cp "$FILE" "$HOSTED/alerts/$OF"
"""
_ACTIONS = {
    "actions/checkout": _CHECKOUT, "actions/upload-artifact": _UPLOAD, "actions/download-artifact": _DOWNLOAD,
    "actions/setup-python": _PYTHON, "github/codeql-action/upload-sarif": _SARIF,
}  # fmt: skip
_PROGRAMS = {
    # A Debian on which all is installed that is asked for, and that says so when it is not.
    "apt-get": """#!/bin/sh
for word; do case $word in update|install|-*) ;; *) dpkg -s "$word" >/dev/null || exit 100;; esac; done
""",
}


@dataclass(frozen=True)
class Ran:
    """One run of a workflow. `results` and `summaries` by the job's name; a matrix's jobs are one."""

    code: int
    log: str
    results: dict[str, set[str]]
    summaries: dict[str, str]
    said: dict[str, str]


@dataclass
class Api:
    """GitHub's API, as far as workflows use it: comments, issues, and who has approved a run."""

    url: str = ""
    comments: list[dict[str, Any]] = field(default_factory=list)
    issues: list[dict[str, Any]] = field(default_factory=list)
    approvals: list[dict[str, Any]] = field(default_factory=list)

    def answer(self, method: str, path: str, body: Any) -> tuple[int, Any]:
        """Status and document; https://docs.github.com/rest/issues."""
        at = path.partition("?")[0].removeprefix(f"/repos/{REPOSITORY}/")
        if found := re.fullmatch(r"issues/comments/(\d+)", at):
            self.comments[int(found[1])].update(body)
            return 200, self.comments[int(found[1])]
        if found := re.fullmatch(r"issues/(\d+)/comments", at):
            on = [one for one in self.comments if one["issue"] == int(found[1])]
            return (
                (200, on) if method == "GET" else (201, self._kept(self.comments, body, issue=int(found[1])))
            )
        if found := re.fullmatch(r"issues/(\d+)", at):
            self.issues[int(found[1])].update(body)
            return 200, self.issues[int(found[1])]
        if at == "issues" and method == "GET":
            return 200, _page([one for one in self.issues if one["state"] == "open"], path)
        if at == "issues":
            return 201, self._kept(self.issues, body, state="open")
        if re.fullmatch(r"actions/runs/\d+/approvals", at):
            return 200, self.approvals
        return 404, {"message": "Not Found"}

    @staticmethod
    def _kept(among: list[dict[str, Any]], body: dict[str, Any], **more: Any) -> dict[str, Any]:
        number = len(among)
        user = {"login": "github-actions[bot]", "type": "Bot"}
        among.append({"id": number, "number": number, "user": user, **more, **body})
        return among[-1]


def _page(found: list[dict[str, Any]], path: str) -> list[dict[str, Any]]:
    asked = dict(parse_qsl(path.partition("?")[2]))
    size = int(asked.get("per_page", "30"))
    start = size * (int(asked.get("page", "1")) - 1)
    return found[start : start + size]


@contextmanager
def api_of(api: Api) -> Iterator[Api]:
    """It answers whoever shows the job's token."""

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            """Not on a test's output."""

        def _any(self) -> None:
            content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if self.headers.get("Authorization") == f"Bearer {TOKEN}":
                code, said = api.answer(self.command, self.path, json.loads(content or b"null"))
            else:
                code, said = 401, {"message": "Bad credentials"}
            answer = json.dumps(said).encode()
            self.send_response(code)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        do_GET = do_POST = do_PATCH = _any  # noqa: N815

    with listening(Handler) as port:
        api.url = f"http://127.0.0.1:{port}"
        yield api


@dataclass
class Hosted:
    """The repository, and the machines that its jobs run on."""

    folder: Path
    api: Api
    variables: dict[str, str] = field(default_factory=dict)
    runs: int = 0

    @property
    def work(self) -> Path:
        """A clone to change things in; `push` makes them the main branch."""
        return self.folder / "work"

    def push(self, message: str) -> str:
        """Commit all there is in `work` to main; returns the commit."""
        self.git("add", "--all")
        who = ("-c", "user.name=test", "-c", "user.email=test@example.com", "-c", "commit.gpgsign=false")
        self.git(*who, "commit", "--quiet", "--allow-empty", "-m", message)
        self.git("push", "--quiet", "--force", str(self.folder / "repository.git"), "HEAD:refs/heads/main")
        return self.git("rev-parse", "HEAD").strip()

    def git(self, *words: str) -> str:
        """What git says in `work`."""
        done = subprocess.run(["git", "-C", self.work, *words], check=True, capture_output=True, text=True)
        return done.stdout

    def runner(self, job: str, environment: Mapping[str, str]) -> None:
        """What the machine of that job, or its rights, add to its environment."""
        lines = "".join(f"{name}={value}\n" for name, value in environment.items())
        (self.folder / "runners" / job).write_text(lines)

    def run(
        self,
        name: str,
        event: str,
        *,
        payload: Mapping[str, Any] | None = None,
        disk: Path | None = None,
        jobs: str = "",
        seconds: float = 1000,
        **inputs: str,
    ) -> Ran:
        """Run a workflow as if that had happened; `disk` is what /var/lib/va is to its machines."""
        self.runs += 1
        text = (self.work / WORKFLOWS / f"{name}.yml").read_text()
        for job in yaml.safe_load(text)["jobs"]:
            (self.folder / "runners" / job).touch()
        here = self.folder / "runs" / str(self.runs)
        here.mkdir(parents=True)
        file, told = here / f"{name}.yml", here / "event.json"
        file.write_text(re.sub(r"(?m)^    container:\n(?:      .*\n)+", "", text))
        told.write_text(json.dumps({**(payload or {}), **({"inputs": inputs} if inputs else {})}))
        words = [
            tools.path("act"), event, "--workflows", file, "--directory", self.work, "--eventpath", told,
            "--json", "--no-skip-checkout", "--no-cache-server", "--action-cache-path", here / "machines",
            "--secret", f"GITHUB_TOKEN={TOKEN}", "--env", f"GITHUB_API_URL={self.api.url}",
            "--env", f"GITHUB_RUN_ID={self.runs}", "--actor", "somebody",
            *(["--job", jobs] if jobs else []),
            *(f"--platform={one}=-self-hosted" for one in sorted(_machines(text))),
            *(f"--local-repository={use}={self._action(use)}" for use in sorted(_used(text))),
            *(f"--var={key}={value}" for key, value in self.variables.items()),
            *(f"--input={key}={value}" for key, value in inputs.items()),
        ]  # fmt: skip
        command = shlex.join(map(str, words))
        if disk is not None:
            disk.mkdir(parents=True, exist_ok=True)
            command = f"mount --bind {disk} /var/lib/va && exec {command}"
        with (
            _place(Path("/var/lib/va") if disk else None),
            (here / "log.jsonl").open("w") as out,
            (here / "stderr").open("w") as errors,
        ):
            done = subprocess.run(
                ["unshare", "--mount", "sh", "-c", command] if disk else ["sh", "-c", f"exec {command}"],
                env=self._environment(name), stdout=out, stderr=errors, timeout=seconds, check=False,
                cwd=self.folder, stdin=subprocess.DEVNULL,
            )  # fmt: skip
        return _read(done.returncode, (here / "log.jsonl").read_text(), (here / "stderr").read_text())

    def _environment(self, name: str) -> dict[str, str]:
        kept = {
            key: value
            for key, value in os.environ.items()
            if key in _KEPT or key.lower().startswith(_SETTINGS)
        }
        return {
            **kept,
            "HOME": str(self.folder / "home"),
            "PATH": f"{self.folder / 'bin'}:{kept['PATH']}",
            "HOSTED": str(self.folder),
            "HOSTED_PYTHON": sys.prefix,
            "VA_CACHE": str(places.cache()),
            "GITHUB_WORKFLOW_REF": f"{REPOSITORY}/{WORKFLOWS}/{name}.yml@refs/heads/main",
            "RUNNER_ENVIRONMENT": "github-hosted",
        }

    def _action(self, use: str) -> Path:
        """A folder that looks like the repository of that action at that commit."""
        folder = self.folder / "actions" / use.replace("/", "-")
        for path, text in _ACTIONS.items():
            if path == use.partition("@")[0] or path.startswith(f"{use.partition('@')[0]}/"):
                inner = folder / path.removeprefix(use.partition("@")[0]).strip("/")
                inner.mkdir(parents=True, exist_ok=True)
                (inner / "action.yml").write_text(text)
        assert folder.is_dir(), f"nothing stands in for {use}"
        return folder


@contextmanager
def _place(folder: Path | None) -> Iterator[None]:
    """It is there while this lasts, to mount something on."""
    new = folder is not None and not folder.exists()
    if folder and new:
        folder.mkdir()
    try:
        yield
    finally:
        if folder and new:
            folder.rmdir()


def _machines(text: str) -> set[str]:
    found = set()
    for job in yaml.safe_load(text)["jobs"].values():
        runner = job["runs-on"]
        found.add(runner["group"] if isinstance(runner, dict) else runner)
    return found


def _used(text: str) -> set[str]:
    """OWNER/REPO@COMMIT of each action, as the workflow pins it."""
    return {
        f"{found[1]}@{found[2]}" for found in re.finditer(r"uses: ([\w.-]+/[\w.-]+)[\w./-]*@(\w{40})", text)
    }


def _read(code: int, out: str, errors: str) -> Ran:
    results: dict[str, set[str]] = {}
    summaries: dict[str, str] = {}
    said: dict[str, str] = {}
    for line in out.splitlines():
        try:
            one = json.loads(line)
        except ValueError:
            continue
        job = one.get("jobID", "")
        if "jobResult" in one:
            results.setdefault(job, set()).add(one["jobResult"])
        elif one.get("command") == "summary":
            summaries[job] = summaries.get(job, "") + one["content"]
        else:
            said[job] = said.get(job, "") + one.get("msg", "").rstrip("\n") + "\n"
    log = "\n".join([*(f"[{job}]\n{text}" for job, text in said.items()), errors])
    return Ran(code, log, results, summaries, said)


@contextmanager
def hosted(folder: Path) -> Iterator[Hosted]:
    """A clone of this checkout as a repository on GitHub, with nothing pushed yet."""
    for name in ("home", "bin", "runners", "artifacts"):
        (folder / name).mkdir(parents=True)
    for name, script in _PROGRAMS.items():
        (folder / "bin" / name).write_text(script)
        (folder / "bin" / name).chmod(0o755)
    if shutil.which("node") is None:  # act counts hashFiles() with it
        (folder / "bin" / "node").symlink_to(tools.path("node"))
    for words in (
        ("git", "clone", "--quiet", str(places.checkout()), str(folder / "work")),
        ("git", "init", "--quiet", "--bare", str(folder / "repository.git")),
        (
            "git",
            "-C",
            str(folder / "work"),
            "remote",
            "set-url",
            "origin",
            f"https://github.com/{REPOSITORY}",
        ),
        ("git", "-C", str(folder / "work"), "checkout", "--quiet", "-B", "main"),
    ):
        subprocess.run(words, check=True)
    with api_of(Api()) as api:
        yield Hosted(folder, api)
