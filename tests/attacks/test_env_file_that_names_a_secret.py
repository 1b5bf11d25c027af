"""A step writes an env file that names a secret of the operator's environment, or grows without end."""

from __future__ import annotations

from typing import Any

import dagger
import pytest

from ci.engine.envfiles import EnvFile
from ci.errors import BadInput

_NAMED = "X=<${VA_TEST_CLIENT_SECRET}>\n"


def test_the_file_of_a_step_reads_no_variable_of_the_machine(
    machine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VA_TEST_CLIENT_SECRET", "of-the-operator")

    async def pipeline(client: dagger.Client, base: dagger.Container) -> str:
        step = base.with_exec(["sh", "-c", f"printf '%s' '{_NAMED}' > /e"])
        there = client.directory().with_file("e", step.file("/e"))
        for file in (step.file("/e"), there.file("e"), there.file("e").with_replaced("<", "[")):
            env = file.as_env_file()
            for one in (env, env.with_variable("Y", "1"), env.namespace(""), env.as_file().as_env_file()):
                with pytest.raises(dagger.QueryError, match="CLIENT_SECRET is a variable of this machine"):
                    await client.container().with_env_file_variables(one).env_variable("X")
        return await there.with_new_file("d", "D=${NONE:-no}").file("d").as_env_file().get("D")

    assert machine.run(pipeline) == "no"


def test_values_that_double_each_other_are_told() -> None:
    doubling = [f"A{number}=$A{number + 1}$A{number + 1}" for number in range(30)]

    with pytest.raises(BadInput, match="are more than"):
        EnvFile(lines=(*doubling, "A30=" + "x" * 64)).read()


def test_a_chain_of_names_may_be_long_and_a_circle_is_told_shortly() -> None:
    chain = [f"A{number}=$A{number + 1}" for number in range(5000)]

    assert EnvFile(lines=(*chain, "A5000=end")).read()["A0"] == "end"
    with pytest.raises(BadInput, match=r"A0 -> A1 -> A2 -> \.\.\. -> A5000 -> A0") as told:
        EnvFile(lines=(*chain, "A5000=$A0")).read()
    assert len(str(told.value)) < 200


def test_of_many_lines_for_a_name_the_last_is_kept_where_the_first_was() -> None:
    many = [(f"N{number % 20_000}", str(number)) for number in range(40_000)]
    found = EnvFile(lines=("A=1", "N1=x", "A=2")).with_variables(many)

    assert found.lines[:3] == ("A=1", "N1=20001", "A=2") and len(found.lines) == 20_002
