"""checkov's report, given by a program that stands for it."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from ci.azure.checkov import Found, failed_checks
from ci.errors import StepFailed

HOST = Found(id="CKV_K8S_19", resource="Deployment.media.livekit", file="prod.yaml", title="host network")


def program(folder: Path, output: str) -> Path:
    (folder / "answer.json").write_text(output)
    file = folder / "checkov"
    file.write_text(f"#!/bin/sh\ncat {folder}/answer.json\nexit 1\n")
    file.chmod(0o755)
    return file


def test_a_report_of_one_or_of_several_kinds_is_read(tmp_path: Path) -> None:
    check = {
        "check_id": HOST.id,
        "resource": HOST.resource,
        "file_path": "/prod.yaml",
        "check_name": "host network",
    }
    report = {"summary": {"passed": 3}, "results": {"failed_checks": [check]}}
    for answer in (report, [report, {"summary": {"passed": 0}, "results": {"failed_checks": []}}]):
        done = failed_checks(program(tmp_path, json.dumps(answer)), tmp_path, "kubernetes")
        assert asyncio.run(done) == (HOST,)


@pytest.mark.parametrize("answer", ["", "no json", '{"passed": 0, "failed": 0}', "[]"])
def test_no_report_is_no_good_news(tmp_path: Path, answer: str) -> None:
    with pytest.raises(StepFailed, match="no report"):
        asyncio.run(failed_checks(program(tmp_path, answer), tmp_path, "kubernetes"))
