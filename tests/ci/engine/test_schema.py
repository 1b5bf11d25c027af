"""The schema against the SDK that builds its queries from it: the SDK's generated code is read, not
called."""

from __future__ import annotations

import ast
import asyncio
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagger.client.gen
import pytest
from graphql import (
    GraphQLArgument,
    GraphQLEnumType,
    GraphQLNonNull,
    GraphQLObjectType,
    build_schema,
    get_introspection_query,
    validate_schema,
    value_from_ast_untyped,
)

import ci.engine
from ci.engine.engine import Engine, answers
from ci.engine.schema import _TOLD, query, schema
from ci.engine.services import RunningServices
from ci.engine.store import Store
from ci.reporting import SilentReporter

_SDK = ast.parse(inspect.getsource(dagger.client.gen))
_CLASSES = {node.name: node for node in _SDK.body if isinstance(node, ast.ClassDef)}
_TYPES = [
    type.name
    for type in schema().type_map.values()
    if isinstance(type, GraphQLObjectType) and not type.name.startswith("__") and len(type.fields) > 1
]
_DROPPED = "FromID"
"""Query.loadContainerFromID and its like: from before there was one scalar ID."""


def _sent(node: ast.ClassDef) -> Iterator[tuple[str, dict[str, Any]]]:
    """Fields that the SDK's class asks for, and for each argument its default (`...` without one)."""
    for method in node.body:
        if not isinstance(method, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        field, arguments = None, {}
        for call in (item for item in ast.walk(method) if isinstance(item, ast.Call)):
            name = ast.unparse(call.func)
            if name == "Arg":
                default = _constant(call.args[2]) if len(call.args) > 2 else ...
                arguments[ast.literal_eval(call.args[0])] = default
            elif name.endswith("._select"):
                field = ast.literal_eval(call.args[0])
            elif name.endswith(".execute_sync"):
                field = ast.literal_eval(call.args[1])
        if field and not field.endswith(_DROPPED):
            yield field, arguments


def _constant(node: ast.expr) -> Any:
    if isinstance(node, ast.Attribute):  # an enum's member: its wire name is the first one of that value
        enum = getattr(dagger.client.gen, ast.unparse(node.value))
        return enum[node.attr].name
    return ast.literal_eval(node)


def _default(argument: GraphQLArgument) -> Any:
    if isinstance(argument.type, GraphQLNonNull):
        return ...
    node = argument.ast_node
    return value_from_ast_untyped(node.default_value) if node and node.default_value else None


@pytest.mark.parametrize("name", _TYPES)
def test_has_the_fields_arguments_and_defaults_of_the_sdk(name: str) -> None:
    type = schema().type_map[name]
    assert isinstance(type, GraphQLObjectType)
    ours = {
        field: {argument: _default(item) for argument, item in node.args.items()}
        for field, node in type.fields.items()
    }

    assert ours == dict(_sent(_CLASSES[name]))


_ENUMS = [
    type.name
    for type in schema().type_map.values()
    if isinstance(type, GraphQLEnumType) and not type.name.startswith("__")
]


@pytest.mark.parametrize("name", _ENUMS)
def test_has_the_enums_of_the_sdk(name: str) -> None:
    type = schema().type_map[name]
    assert isinstance(type, GraphQLEnumType)

    assert set(type.values) == {member.name for member in getattr(dagger.client.gen, name)}


def test_the_schema_is_a_valid_one() -> None:
    file = Path(ci.engine.__file__).with_name("schema.graphql")

    assert validate_schema(build_schema(file.read_text())) == []


def test_the_schema_is_told_the_same_when_it_is_known(ask: Any) -> None:
    text = get_introspection_query()

    _TOLD.clear()
    first = ask(text)
    assert first == ask(text) and len(first["data"]["__schema"]["types"]) > 50
    _TOLD.clear()  # as in another process
    assert first == ask(text)
    assert ask("{ __schema { queryType { name } } }")["data"] == {
        "__schema": {"queryType": {"name": "Query"}}
    }
    assert "errors" in ask("{ __schema { nothing } }")
    both = ask("{ __schema { queryType { name } } container { user } }")["data"]
    assert both["container"] == {"user": ""}


def test_every_answer_is_to_a_declared_field() -> None:
    for name in answers:
        type, _, field = name.partition(".")
        node = schema().type_map[type]
        assert isinstance(node, GraphQLObjectType) and field in node.fields, name


def test_what_pipelines_need_is_answered() -> None:
    needed = """from import withExec withDirectory withFile withNewFile withMountedCache withMountedDirectory
        withMountedFile withEnvVariable withSecretVariable withMountedSecret withWorkdir withUser
        withEntrypoint withDefaultArgs withLabel withExposedPort withServiceBinding asService
        withRegistryAuth publish asTarball export stdout stderr exitCode rootfs directory file platform"""
    assert {f"Container.{field}" for field in needed.split()} <= answers.keys()
    assert {"Directory.dockerBuild", "Query.setSecret", "Query.secret", "Query.cacheVolume"} <= answers.keys()
    assert {"Host.directory", "Host.file", "Directory.export", "File.contents"} <= answers.keys()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{ nothing }", "Query.nothing; run it"),
        ("{ container { withExecs(args: []) { id } } }", r"Container\.withExecs; instead: .*withExec"),
        (
            '{ container { withUser(named: "a") { id } } }',
            r"Container\.withUser\(named\); instead: name, or run",
        ),
        ("{ container { terminal { id } } }", r"Container\.terminal; instead: withExec with"),
        ('{ host { unixSocket(path: "/x") { id } } }', r"Host\.unixSocket; instead: a TCP port"),
        ("{ llm { id } }", r"Query\.llm; run it"),
        ('{ moduleSource(refString: "x") { id } }', r"Query\.moduleSource; instead: the module's functions"),
    ],
)
def test_what_is_not_answered_is_refused_by_name_with_the_nearest_way(
    text: str, told: str, tmp_path: Path
) -> None:
    async def ask() -> dict[str, Any]:
        store = Store(tmp_path)
        engine = Engine(store, SilentReporter(), services=RunningServices)
        try:
            return await query(engine, text)
        finally:
            await engine.close()
            store.close()

    errors = asyncio.run(ask())["errors"]
    messages = [error["message"] for error in errors]
    assert any(re.search(f"^not supported by the embedded session: {told}", one) for one in messages), (
        messages
    )
    assert all("\n" not in one for one in messages)
