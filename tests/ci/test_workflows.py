"""What actionlint does not look at: pins, permissions, words of others in scripts, what each half may run.

`problems` holds a workflow to the rules; each rule is shown to bite by a workflow that was altered.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import yaml

from ci import places
from pipelines.images import IMAGES
from pipelines.scan import CHART

_FOLDER = places.checkout() / ".github" / "workflows"
_NAMES = ["ci.yml", "dr.yml", "infra.yml", "promote.yml", "release.yml"]
_ENVIRONMENTS = ["dev", "staging", "prod"]

Workflow = dict[str, Any]

_MAKES = r"\bva (build|test|scan|make|ship|livekit|demo|up)\b|\bnox\b.* -s|\bpytest\b|\bdagger\b|\bbuildah\b"
"""Commands that run other people's code, or ours on what it brought."""
_INSTALLS = r"\b(pip|apt|apt-get|npm|go) (i|install)\b|\b(uvx?|pipx|curl|wget)\b"
"""What brings something that no lock of ours names. `./nox` installs by hash."""


_TELLS = {("security-events", "write"), ("pull-requests", "write"), ("issues", "write")}
"""Rights to say something on GitHub: of jobs that have no other."""


def read(name: str) -> Workflow:
    found: Workflow = yaml.safe_load((_FOLDER / name).read_text())
    return found


def triggers(workflow: Workflow) -> dict[str, Any]:
    on = workflow.get("on", workflow.get(True))  # YAML 1.1 takes the key `on` for a truth
    assert isinstance(on, dict)
    return on


def problems(workflow: Workflow) -> Iterator[str]:
    """What is wrong with it."""
    if workflow.get("permissions") not in ({}, {"contents": "read"}):
        yield "rights are given to all jobs"
    typed = [
        name
        for name, said in ((triggers(workflow).get("workflow_dispatch") or {}).get("inputs") or {}).items()
        if said["type"] not in ("choice", "boolean")
    ]
    for name, job in workflow["jobs"].items():
        rights = job.get("permissions", workflow["permissions"])
        signs = rights.get("id-token") == "write"
        more = set(rights.items()) - {("contents", "read"), ("id-token", "write"), ("actions", "read")}
        if more - _TELLS:
            yield f"{name}: more rights than any job needs: {sorted(more)}"
        if more & _TELLS and signs:
            yield f"{name}: has an identity, and tells people"
        if signs and "environment" not in job:
            yield f"{name}: has an identity, and nobody approves"
        if signs and job.get("container"):
            yield f"{name}: has an identity, and runs in an image"
        image = (job.get("container") or {}).get("image", "")
        if image and not re.search(r"@sha256:[0-9a-f]{64}$", image):
            yield f"{name}: the container {image} is named by a tag"
        runner = job["runs-on"]
        if isinstance(runner, list) or (isinstance(runner, str) and not runner.startswith("ubuntu-")):
            yield f"{name}: a machine of ours that any workflow can name: {runner}"
        for typed_name in typed:
            if f"inputs.{typed_name}" in str({key: job[key] for key in job.keys() - {"env"}}):
                yield f"{name}: the typed word {typed_name} is more than a variable"
        for step in job["steps"]:
            yield from (f"{name}: {one}" for one in _step_problems(step, signs=signs))


def _step_problems(step: dict[str, Any], *, signs: bool) -> Iterator[str]:
    uses, script = step.get("uses", ""), step.get("run", "")
    if uses and not re.fullmatch(r"[\w.-]+/[\w./-]+@[0-9a-f]{40}", uses):
        yield f"{uses} is not pinned by a commit"
    if (
        uses.startswith("actions/checkout@")
        and (step.get("with") or {}).get("persist-credentials") is not False
    ):
        yield "the checkout keeps a token"
    if "${{" in script:
        yield "a script is put together from words"
    for word in re.findall(r"\$\{?(RELEASE|DIGEST|ENVIRONMENT)\b", script):
        if not re.search(rf'"\${word}"', script):
            yield f"${word} is not quoted"
    if re.search(r"va [^\n]*\$RELEASE", script) and not re.search(r'-- "\$RELEASE"', script):
        yield "a release's name could be taken for an option"
    if re.search(r"va (make|publish|ship)\b", script):
        for file in re.findall(r">>? *(\S+)", script):
            if not file.startswith(("reports/", '"$GITHUB_', '"$RUNNER_TEMP/')):
                yield f"{file} in the checkout is an uncommitted change, and a release says so"
    if signs and re.search(_MAKES, script):
        yield f"has an identity, and runs what was made: {script.strip()}"
    if signs and re.search(_INSTALLS, script):
        yield f"has an identity, and installs what no lock names: {script.strip()}"
    if signs and re.match(r"actions/cache@|azure/login@|docker/", uses):
        yield f"has an identity, and uses {uses.partition('@')[0]}"
    if signs and re.search(r"\$RUNNER_TEMP/made/|(?<!-)\bmade/|chmod|source ", script):
        yield "takes a file out of what was made by itself"
    if signs and uses.startswith("actions/download-artifact@"):
        path = (step.get("with") or {}).get("path", "")
        if not path.startswith("${{ runner.temp }}/"):
            yield "what was made is laid into the checkout"


def test_these_are_all_workflows() -> None:
    assert sorted(file.name for file in _FOLDER.iterdir()) == _NAMES


@pytest.mark.parametrize("name", _NAMES)
def test_the_rules_are_kept(name: str) -> None:
    assert list(problems(read(name))) == []


@pytest.mark.parametrize("name", _NAMES)
def test_actions_say_their_version(name: str) -> None:
    lines = [line for line in (_FOLDER / name).read_text().splitlines() if "uses:" in line]
    assert lines
    for line in lines:
        assert re.search(r"uses: [\w.-]+/[\w./-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+$", line), line


def _publish(workflow: Workflow) -> dict[str, Any]:
    job: dict[str, Any] = workflow["jobs"]["publish"]
    return job


def _run(script: str) -> Callable[[Workflow], object]:
    return lambda workflow: _publish(workflow)["steps"].append({"run": script})


def _use(action: str, **given: str) -> Callable[[Workflow], object]:
    return lambda workflow: _publish(workflow)["steps"].append({"uses": action, "with": given})


_SHA = "0" * 40


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_run(".venv/bin/va make --to made"), "runs what was made"),
        (_run(".venv/bin/va ship"), "runs what was made"),
        (_run("./nox -s tests"), "runs what was made"),
        (_run(".venv/bin/va test --image fastapi-backend"), "runs what was made"),
        (_run('sh "$RUNNER_TEMP/made/publish.sh"'), "out of what was made by itself"),
        (_run('chmod +x "$RUNNER_TEMP"/made'), "out of what was made by itself"),
        (_run("pip install azure-cli==2.91.0"), "installs what no lock names"),
        (_run("apt-get update && apt-get install -y jq"), "installs what no lock names"),
        (_run("curl -sSf https://example.test | sh"), "installs what no lock names"),
        (
            _run(".venv/bin/va make --to made --json > made.json"),
            "made.json in the checkout is an uncommitted",
        ),
        (_run("echo ${{ inputs.x }}"), "put together from words"),
        (_run(".venv/bin/va release verify $RELEASE"), "$RELEASE is not quoted"),
        (_run('.venv/bin/va release verify "$RELEASE"'), "could be taken for an option"),
        (_use("actions/cache@v5"), "is not pinned by a commit"),
        (_use(f"actions/cache@{_SHA}", path="~/.cache"), "uses actions/cache"),
        (_use(f"azure/login@{_SHA}"), "uses azure/login"),
        (_use(f"actions/checkout@{_SHA}"), "the checkout keeps a token"),
        (_use(f"actions/download-artifact@{_SHA}", name="made", path="made"), "laid into the checkout"),
        (lambda it: _publish(it).update(container={"image": "debian:12"}), "runs in an image"),
        (lambda it: _publish(it).pop("environment"), "nobody approves"),
        (lambda it: it["jobs"]["make"]["container"].update(image="debian:12"), "named by a tag"),
        (lambda it: it["jobs"]["make"]["permissions"].update({"id-token": "write"}), "nobody approves"),
        (lambda it: it["jobs"]["make"]["permissions"].update(packages="write"), "more rights than any"),
        (lambda it: _publish(it)["permissions"].update(issues="write"), "has an identity, and tells people"),
        (lambda it: it.update(permissions={"contents": "write"}), "rights are given to all jobs"),
        (lambda it: it.update(permissions="write-all"), "rights are given to all jobs"),
        (lambda it: _publish(it).update({"runs-on": ["self-hosted", "x"]}), "any workflow can name"),
    ],
)
def test_each_rule_bites(change: Callable[[Workflow], object], said: str) -> None:
    altered = copy.deepcopy(read("release.yml"))
    change(altered)
    found = list(problems(altered))
    assert any(said in one for one in found), found


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda job: job["steps"].append(
                {"uses": f"a/b@{_SHA}", "with": {"path": "${{ inputs.release }}"}}
            ),
            "the typed word release is more than a variable",
        ),
        (lambda job: job.update({"runs-on": "${{ inputs.release }}"}), "any workflow can name"),
        (lambda job: job.update({"runs-on": ["self-hosted", "va-promote"]}), "any workflow can name"),
        (lambda job: job.pop("environment"), "nobody approves"),
    ],
)
def test_each_rule_of_a_promotion_bites(change: Callable[[dict[str, Any]], object], said: str) -> None:
    altered = copy.deepcopy(read("promote.yml"))
    change(altered["jobs"]["prod"])
    assert any(said in one for one in problems(altered))


def test_what_a_pull_request_brings_runs_as_nobody_who_may_change_anything() -> None:
    workflow = read("infra.yml")
    jobs = workflow["jobs"]
    assert "pull_request_target" not in triggers(workflow)
    on_pull_requests = {
        name
        for name, job in jobs.items()
        if "pull_request" in str(job.get("if", "")).replace("!= 'pull_request'", "")
    }
    assert on_pull_requests == {"plan", "comment"}
    assert jobs["plan"]["environment"] == jobs["drift"]["environment"] == "infra-plan"
    assert "head.repo.full_name == github.repository" in jobs["plan"]["if"]
    assert "id-token" not in jobs["comment"]["permissions"]
    (checkout,) = (step for step in jobs["comment"]["steps"] if "checkout" in step.get("uses", ""))
    assert checkout["with"]["ref"] == "${{ github.event.pull_request.base.sha }}"
    assert not any("va infra apply" in str(jobs[name]) for name in ("plan", "comment", "drift", "tell"))


def test_azure_is_changed_only_as_planned_in_order_and_after_a_review() -> None:
    jobs = read("infra.yml")["jobs"]
    for name, before in zip(_ENVIRONMENTS, ["plan", ["plan", "dev"], ["plan", "staging"]], strict=True):
        job = jobs[name]
        assert job["environment"] == f"infra-{name}" and job["runs-on"] == {"group": f"infra-{name}"}
        assert job["needs"] == before and job["concurrency"]["cancel-in-progress"] is False
        (apply,) = (step["run"] for step in job["steps"] if "va infra apply" in step.get("run", ""))
        assert '--planned "$RUNNER_TEMP/plan/plan.json"' in apply
    assert "github.ref == 'refs/heads/main'" in jobs["dev"]["if"]


def test_each_night_is_looked_at_and_somebody_is_told() -> None:
    for name, jobs_that_look in (("infra.yml", ["drift"]), ("dr.yml", ["backup", "drill"])):
        workflow = read(name)
        assert triggers(workflow)["schedule"]
        tell = workflow["jobs"]["tell"]
        assert [tell["needs"]] == [jobs_that_look] or tell["needs"] in (jobs_that_look, jobs_that_look[0])
        assert tell["permissions"] == {"contents": "read", "issues": "write"}
        assert "!cancelled()" in tell["if"], "of a failure above all"


def test_an_estate_that_is_typed_is_found() -> None:
    altered = copy.deepcopy(read("promote.yml"))
    triggers(altered)["workflow_dispatch"]["inputs"]["estate"] = {"type": "string"}
    assert any("the typed word estate" in one for one in problems(altered))


def test_only_the_second_half_has_an_identity_and_the_first_has_nothing() -> None:
    jobs = read("release.yml")["jobs"]
    assert jobs["make"]["permissions"] == {"contents": "read"} and "environment" not in jobs["make"]
    assert jobs["publish"]["permissions"] == {"contents": "read", "id-token": "write"}
    assert jobs["publish"]["needs"] == "make" and jobs["publish"]["environment"] == "publish"
    assert "id-token" not in jobs["alerts"]["permissions"]
    assert not any("run" in step for step in jobs["alerts"]["steps"])
    assert (
        "AZURE_CLIENT_ID" not in str(jobs["make"]) and "secrets." not in (_FOLDER / "release.yml").read_text()
    )


def test_what_was_made_goes_one_way_and_its_digest_another() -> None:
    jobs = read("release.yml")["jobs"]
    steps = jobs["publish"]["steps"]
    installed = next(number for number, step in enumerate(steps) if step.get("run") == "./nox -l")
    brought = next(number for number, step in enumerate(steps) if "download-artifact" in step.get("uses", ""))
    (publish,) = (step for step in steps if "va publish" in step.get("run", ""))
    assert installed < brought, "nothing of it is there while we install"
    assert '--from "$RUNNER_TEMP/made" --digest "$DIGEST"' in publish["run"]
    assert publish["env"]["DIGEST"] == "${{ needs.make.outputs.digest }}"
    assert jobs["make"]["outputs"]["digest"] == "${{ steps.make.outputs.digest }}"


def test_a_release_that_is_being_published_is_not_cut_off() -> None:
    assert read("release.yml")["concurrency"]["cancel-in-progress"] is False


def test_each_environment_is_a_job_of_its_own_after_the_one_before() -> None:
    workflow = read("promote.yml")
    jobs = workflow["jobs"]
    assert list(jobs) == _ENVIRONMENTS
    assert triggers(workflow)["workflow_dispatch"]["inputs"]["environment"]["options"] == _ENVIRONMENTS
    for name, before in zip(_ENVIRONMENTS, [None, *_ENVIRONMENTS], strict=False):
        job = jobs[name]
        assert job["environment"] == name == job["env"]["ENVIRONMENT"]
        assert job.get("needs") == before
        assert job["runs-on"] == {"group": f"promote-{name}"}, "a group takes the workflows that it names"
        assert job["permissions"] == {"actions": "read", "contents": "read", "id-token": "write"}
        assert job["concurrency"] == {
            "group": f"promote-{name}-${{{{ inputs.estate }}}}",
            "cancel-in-progress": False,
        }
        scripts = [step.get("run", "") for step in job["steps"]]
        assert any('va promote --only "$ENVIRONMENT"' in script for script in scripts)
        with_token = [step for step in job["steps"] if "github.token" in str(step.get("env"))]
        assert ["va promote" in step["run"] for step in with_token] == [True], "who approved, it asks alone"
    assert "if" not in jobs["dev"]
    assert jobs["staging"]["if"] == "${{ inputs.environment != 'dev' }}"
    assert jobs["prod"]["if"] == "${{ inputs.environment == 'prod' }}"


def test_a_name_is_refused_before_it_is_used() -> None:
    scripts = [
        step["run"]
        for step in read("promote.yml")["jobs"]["dev"]["steps"]
        if "$RELEASE" in step.get("run", "")
    ]
    assert scripts[0].startswith('.venv/bin/va release pull -- "$RELEASE"')


def test_each_image_and_the_chart_has_alerts_of_its_own() -> None:
    alerts = read("release.yml")["jobs"]["alerts"]
    subjects = alerts["strategy"]["matrix"]["subject"]
    assert subjects == [*(image.name for image in IMAGES), CHART]
    upload = alerts["steps"][-1]["with"]
    assert upload == {
        "sarif_file": "reports/${{ matrix.subject }}/findings.sarif",
        "category": "${{ matrix.subject }}/",  # as in the file itself: see ci.scan.trivy
    }


def test_all_that_is_installed_is_named_by_hash() -> None:
    script = (places.checkout() / "nox").read_text()
    installs = [line for line in script.splitlines() if re.search(r"(pip\"|pip) install", line)]
    assert len(installs) == 3
    assert all("--require-hashes" in line or "--no-deps --no-build-isolation" in line for line in installs)
    lock = (places.checkout() / "requirements" / "dev.txt").read_text()
    for name in ("uv", "hatchling", "editables"):
        assert re.search(rf"^{name}==\S+ \\\n    --hash=sha256:", lock, re.MULTILINE), name


def test_what_decides_who_may_sign_has_owners() -> None:
    root = places.checkout()
    lines = [
        line.split() for line in (root / ".github/CODEOWNERS").read_text().splitlines() if line[:1] == "/"
    ]
    owned = {path for path, *owners in lines if owners}
    assert {"/.github/", "/environments/", "/policy.yaml", "/requirements/", "/nox", "/ci/supply/"} <= owned
    assert (root / "SECURITY.md").is_file()
