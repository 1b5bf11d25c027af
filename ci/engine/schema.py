"""The GraphQL face of the engine: the schema, and how its fields become chains and answers."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import graphql
from graphql import (
    ASTValidationRule,
    DocumentNode,
    ExecutionResult,
    FieldNode,
    GraphQLArgument,
    GraphQLDirective,
    GraphQLError,
    GraphQLInterfaceType,
    GraphQLList,
    GraphQLNonNull,
    GraphQLObjectType,
    GraphQLResolveInfo,
    GraphQLSchema,
    GraphQLString,
    NoUnusedVariablesRule,
    OperationDefinitionNode,
    build_schema,
    execute,
    get_directive_values,
    get_named_type,
    parse,
    specified_rules,
    validate,
)

from ci.engine import (
    changes,
    commands,
    containers,
    contents,
    dockerfiles,
    downloads,
    envfiles,
    files,
    host,
    images,
    jsonvalues,
    repositories,
    search,
    secrets,
    services,
    tunnels,
)
from ci.engine.chain import ITEM, Call, decode, encode
from ci.engine.engine import Engine, ExecFailed, answers
from ci.engine.queries import cut
from ci.engine.refusals import refusal, unknown
from ci.engine.store import digest_of
from ci.engine.values import Record
from ci.errors import BadInput, PipelineError

__all__ = ["VERSION", "query", "schema"]

_LOG = logging.getLogger(__name__)

VERSION = "v0.21.0-embedded"

_ROOMS = (
    changes,
    commands,
    containers,
    contents,
    dockerfiles,
    downloads,
    envfiles,
    files,
    host,
    images,
    jsonvalues,
    repositories,
    search,
    secrets,
    services,
    tunnels,
)
"""Imported for the answers that they register."""


_TOLD: dict[str, dict[str, Any]] = {}
"""Of the schema, in earlier sessions of this process."""

_OF_A_PIECE = [rule for rule in specified_rules if rule is not NoUnusedVariablesRule]
"""The rules for a piece of a query: another piece may use the variable."""


@cache
def _text() -> str:
    return Path(__file__).with_name("schema.graphql").read_text()


@cache
def schema() -> GraphQLSchema:
    """The schema of schema.graphql with our resolvers."""
    # That it is a valid one does not change from session to session: its tests say so.
    built = build_schema(_text(), assume_valid=True, assume_valid_sdl=True)
    for type in built.type_map.values():
        if isinstance(type, GraphQLObjectType) and not type.name.startswith("__"):
            for field in type.fields.values():
                field.resolve = _resolve
        if isinstance(type, GraphQLInterfaceType):
            type.resolve_type = lambda value, *_: value.type
    return built


async def query(engine: Engine, text: str, variables: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Answer one request: the `data` and `errors` of the GraphQL response."""
    try:
        pieces = cut(text)
    except BadInput as error:
        return {"errors": [{"message": str(error)}]}
    if not pieces:
        return await _answered(engine, text, variables, specified_rules)
    path: list[str] = []
    text = pieces[0].header + pieces[0].body
    for number, piece in enumerate(pieces, 1):
        response = await _answered(engine, text, variables, _OF_A_PIECE)
        found: Any = response.get("data")
        if number > 1:
            found = found and found["node"]
            for told in response.get("errors", ()):
                told["path"] = [*path, *told.get("path", ())[1:]]
        if number == len(pieces) or "errors" in response:
            break
        for name in piece.names:
            found = found[name]
        path.extend(piece.names)
        text = pieces[number].after(found["id"], decode(found["id"]).type)
    for name in reversed(path):
        found = {name: found}
    return {**response, "data": found}


async def _answered(
    engine: Engine, text: str, variables: Mapping[str, Any] | None, rules: Collection[type[ASTValidationRule]]
) -> dict[str, Any]:
    try:
        document = parse(text)
    except GraphQLError as error:
        return {"errors": [error.formatted]}
    if not _asks_for_the_schema(document):
        return await _executed(engine, document, variables, rules)
    # Every client does so first, and it takes as long as everything else that a warm pipeline asks for.
    key = digest_of("schema", graphql.version, _text(), text, variables)
    known = _TOLD.get(key) or engine.store.result(key)
    if known is None:
        known = {"response": await _executed(engine, document, variables, rules)}
        if "errors" not in known["response"]:
            engine.store.keep(key, known)
    response: dict[str, Any] = known["response"]
    if "errors" not in response:
        _TOLD[key] = known
    return response


def _asks_for_the_schema(document: DocumentNode) -> bool:
    """Whether a query asks for the schema, and for nothing else."""
    asked = [node for node in document.definitions if isinstance(node, OperationDefinitionNode)]
    fields = [field for node in asked for field in node.selection_set.selections]
    return bool(fields) and all(
        isinstance(field, FieldNode) and field.name.value.startswith("__") for field in fields
    )


async def _executed(
    engine: Engine,
    document: DocumentNode,
    variables: Mapping[str, Any] | None,
    rules: Collection[type[ASTValidationRule]],
) -> dict[str, Any]:
    if errors := validate(schema(), document, rules):
        return {"errors": [_of_the_schema(error) for error in errors]}
    result = execute(schema(), document, context_value=engine, variable_values=dict(variables or {}))
    if not isinstance(result, ExecutionResult):
        result = await result
    response: dict[str, Any] = {"data": result.data}
    if result.errors:
        response["errors"] = [_told(engine, error) for error in result.errors]
    return response


def _of_the_schema(error: GraphQLError) -> dict[str, Any]:
    """An error of a query that does not fit the schema: of what is not there, which is not answered."""
    told: dict[str, Any] = dict(error.formatted)
    if refused := unknown(error.message):
        told["message"] = str(refused)
        told["extensions"] = {"_type": "PIPELINE_ERROR", "kind": "BadInput", "hint": refused.hint}
    return told


def _told(engine: Engine, error: GraphQLError) -> dict[str, Any]:
    """An error for the client, masked. Ours carry their kind and hint, so that the session can give them
    back."""
    told: dict[str, Any] = dict(error.formatted)
    original = error.original_error
    message = str(original) or type(original).__name__ if original else error.message
    # Of a command its own secrets are hidden, and are already.
    told["message"] = message if isinstance(original, ExecFailed) else engine.masker.mask(message)
    if isinstance(original, PipelineError):
        told["extensions"] = {
            "_type": "PIPELINE_ERROR",
            "kind": next(kind.__name__ for kind in type(original).__mro__ if kind.__module__ == "ci.errors"),
            "hint": engine.masker.mask(original.hint),
        }
    elif original is not None and not isinstance(original, ExecFailed):
        _LOG.error("the embedded session failed", exc_info=original)
        told["message"] = f"the embedded session failed: {type(original).__name__}: {told['message']}"
    return told


def _resolve(source: Call | None, info: GraphQLResolveInfo[Engine], /, **args: Any) -> Any:
    """An object is its chain of calls, made at once; anything else is an answer, awaited."""
    engine = info.context
    type, field = info.parent_type.name, info.field_name
    name = f"{type}.{field}"
    named = get_named_type(info.return_type).name
    if name == "Query.version":
        return VERSION
    if name == "Query.node":
        return decode(args["id"])
    if field == "id":
        return encode(source) if source else encode(Call(None, "Query", "query", {}))
    declared = info.parent_type.fields[field].args
    given = {key: _argument(key, declared[key], args.get(key)) for key in declared}
    if name == "Query.setSecret":
        given = {"name": given["name"], "mac": engine.secrets.set(given["name"], given["plaintext"])}
    if field == "sync" and source is not None:
        return _sync(engine, source)
    if type in _RECORDS and name not in answers and source is not None:
        return _field(engine, source, field)
    if name not in answers:
        raise refusal(name)
    call = Call(source, named, field, given)
    if _is_list(info.return_type) and isinstance(info.schema.get_type(named), GraphQLObjectType):
        return _list(engine, call)
    if isinstance(info.schema.get_type(named), GraphQLObjectType):
        return call
    return engine.answered(call)


_RECORDS = frozenset({"DiffStat", "EnvVariable", "Label", "Port", "SearchResult", "SearchSubmatch", "Stat"})


def _is_list(type: Any) -> bool:
    return isinstance(type.of_type if isinstance(type, GraphQLNonNull) else type, GraphQLList)


_ANY_TEXT = frozenset({"contents", "patch", "plaintext", "replacement", "search", "stdin"})


def _has_nul(value: Any) -> bool:
    if isinstance(value, dict):
        return _has_nul(list(value.values()))
    return any(map(_has_nul, value)) if isinstance(value, list) else isinstance(value, str) and "\0" in value


def _argument(name: str, argument: GraphQLArgument, value: Any) -> Any:
    """An ID becomes the chain that it names, once it names an object of the right type. BadInput for text
    with a NUL where that cannot be: in paths, arguments, variables."""
    if name not in _ANY_TEXT and _has_nul(value):
        raise BadInput(f"{name}: text with a NUL byte, which no path and no command can have")
    if get_named_type(argument.type).name != "ID" or value is None:
        return value
    if isinstance(value, list):
        return [_object(argument, item) for item in value]
    return _object(argument, value)


def _object(argument: GraphQLArgument, identity: str) -> Call:
    call = decode(identity)
    wanted = _expected_type(argument) or call.type
    if call.type != wanted:
        raise BadInput(f"expected the ID of a {wanted}, got the ID of a {call.type}")
    return call


def _expected_type(argument: GraphQLArgument) -> str:
    """The name in the argument's @expectedType directive, empty without one."""
    node = argument.ast_node
    expected = node and get_directive_values(GraphQLDirective("expectedType", [], _NAME), node)
    return expected["name"] if expected else ""


_NAME = {"name": GraphQLArgument(GraphQLNonNull(GraphQLString))}


async def _sync(engine: Engine, source: Call) -> str:
    await engine.value(source)
    return encode(source)


async def _list(engine: Engine, call: Call) -> list[Call]:
    """Objects of a list are chains that end in their position."""
    items = await engine.value(call)
    return [
        Call(call.parent, call.type, call.field, {**call.args, ITEM: number}) for number in range(len(items))
    ]


async def _field(engine: Engine, source: Call, field: str) -> Any:
    record = await engine.value(source)
    assert isinstance(record, Record)
    return record.fields[field]
