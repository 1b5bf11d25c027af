from __future__ import annotations

from datetime import datetime
from pathlib import Path

from ci.errors import BadInput, SystemUnavailable
from ci.recovery.postgres import explain, follow_log

AT = datetime.fromisoformat("2026-11-24T18:00:00.250+02:00")


def _cluster(folder: Path, settings: str = "") -> Path:
    folder.mkdir()
    (folder / "postgresql.auto.conf").write_text(settings)
    return folder


def test_a_cluster_is_told_the_moment_in_utc(tmp_path: Path) -> None:
    data = _cluster(tmp_path / "data", "work_mem = '8MB'\n")

    follow_log(data, AT)

    assert (data / "recovery.signal").is_file()
    assert (data / "postgresql.auto.conf").read_text().splitlines() == [
        "work_mem = '8MB'",
        "recovery_target_time = '2026-11-24 16:00:00.250000+00'",
        "recovery_target_action = 'promote'",
    ]


def test_what_an_earlier_restore_asked_for_is_not_asked_for_again(tmp_path: Path) -> None:
    data = _cluster(tmp_path / "data")
    follow_log(data, AT)

    follow_log(data, None)

    assert (data / "postgresql.auto.conf").read_text().strip() == ""


def test_a_moment_after_the_end_of_the_log_is_the_users_mistake() -> None:
    # It answered while it replayed, and was gone before the next question.
    failure = SystemUnavailable("PostgreSQL does not answer: server closed the connection unexpectedly")
    log = "FATAL:  recovery ended before configured recovery target was reached"

    said = explain(failure, AT, log)

    assert isinstance(said, BadInput)
    assert "the archived log ends before 2026-11-24T18:00:00.250000+02:00" in str(said)


def test_what_a_server_that_gave_up_wrote_last_is_said() -> None:
    failure = SystemUnavailable("PostgreSQL does not answer", hint="see its log")

    said = explain(failure, None, "PANIC:  could not write to file: No space left on device")

    assert isinstance(said, SystemUnavailable)
    assert str(said) == "PostgreSQL does not answer\nPANIC:  could not write to file: No space left on device"
    assert said.hint == "see its log"
    assert explain(told := SystemUnavailable("it ended\nFATAL: x"), AT, "FATAL: x") is told
