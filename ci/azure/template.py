"""ARM's template language, as far as our templates speak it: resources with ids, expressions with values.

Source: learn.microsoft.com, "ARM template functions", and "Template structure and syntax".
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ci.azure.refusals import Refused

__all__ = ["Scope", "made_up"]

_NAMESPACE = uuid.UUID("5a3f1d2e-8f0b-4a55-9d7b-2b6d6f1f0a01")


@dataclass(frozen=True)
class Scope:
    """A resource group that a template is deployed to: ids and expressions are made sense of here."""

    subscription: str
    group: str
    there: Mapping[str, Any]
    """The resources that there are, by id in small letters."""

    def resources(self, properties: Any) -> list[dict[str, Any]]:
        """The template's resources with their ids, and what each waits for."""
        template = properties["template"]
        given = {key: value["value"] for key, value in (properties.get("parameters") or {}).items()}
        missing = sorted(set(template.get("parameters", {})) - set(given))
        if missing:
            raise Refused(
                400,
                "InvalidTemplate",
                f"The value for the template parameter '{missing[0]}' is not provided.",
            )
        found = [
            self._resource(one, home, given) for one, home in self._flat(template["resources"], self.home)
        ]
        ids = {one["id"].lower() for one in found}
        for one in found:
            for need in one["dependsOn"]:
                if need.lower() not in ids:
                    raise Refused(
                        400,
                        "InvalidTemplate",
                        f"{one['name']} depends on {need}, which is not in the template.",
                    )
        return found

    def outputs(self, properties: Any) -> dict[str, Any]:
        """What a deployment outputs, once all its resources are there."""
        declared = properties["template"].get("outputs", {})
        return {
            key: {**one, "value": self.evaluate(self._walk(one["value"], {}), strict=True)}
            for key, one in declared.items()
        }

    @property
    def home(self) -> str:
        """The id of the group."""
        return f"/subscriptions/{self.subscription}/resourceGroups/{self.group}"

    def _flat(self, resources: Sequence[Any], home: str) -> Iterator[tuple[Any, str]]:
        """Each resource and where it goes: those of a deployment within this one elsewhere."""
        for one in resources:
            if one["type"] != "Microsoft.Resources/deployments":
                yield one, home
                continue
            elsewhere = f"/subscriptions/{self.subscription}"
            if "resourceGroup" in one:
                elsewhere += f"/resourceGroups/{one['resourceGroup']}"
            elif "location" not in one:
                raise Refused(
                    400, "LocationRequired", f"{one['name']}: a subscription's deployment has a location."
                )
            yield from self._flat(one["properties"]["template"]["resources"], elsewhere)

    def _resource(self, one: Any, home: str, given: dict[str, Any]) -> dict[str, Any]:
        body = {k: v for k, v in one.items() if k not in ("apiVersion", "dependsOn", "name", "scope", "type")}
        name = self._value(one["name"], given)
        scope = self._value(one["scope"], given) if "scope" in one else home
        kind, *types = one["type"].split("/")
        path = "/".join(f"{a}/{b}" for a, b in zip(types, name.split("/"), strict=True))
        return {
            "id": f"{scope}/providers/{kind}/{path}",
            "type": one["type"],
            "name": name,
            "home": home,
            "scope": scope,
            "body": self._walk(body, given),
            "dependsOn": [self._value(need, given) for need in one.get("dependsOn", [])],
        }

    def evaluate(self, body: Any, *, strict: bool) -> Any:
        """`reference(…)` resolved: `strict` refuses one to what is not there."""
        if isinstance(body, dict):
            return {
                self._reference(key, strict): self.evaluate(value, strict=strict)
                for key, value in body.items()
            }
        if isinstance(body, list):
            return [self.evaluate(item, strict=strict) for item in body]
        return self._reference(body, strict)

    def _walk(self, body: Any, given: dict[str, Any]) -> Any:
        if isinstance(body, dict):
            return {self._value(key, given): self._walk(value, given) for key, value in body.items()}
        if isinstance(body, list):
            return [self._walk(item, given) for item in body]
        return self._value(body, given)

    def _value(self, text: Any, given: dict[str, Any]) -> Any:
        if (
            not isinstance(text, str)
            or not (text.startswith("[") and text.endswith("]"))
            or "reference(" in text
        ):
            return text
        return _Expression(text[1:-1], self, given, strict=False).value()

    def _reference(self, text: Any, strict: bool) -> Any:
        if not isinstance(text, str) or not text.startswith("[reference("):
            return text
        return _Expression(text[1:-1], self, {}, strict=strict).value()


class _Expression:
    """The few functions of ARM's template language that our templates call."""

    def __init__(self, text: str, scope: Scope, given: dict[str, Any], *, strict: bool) -> None:
        self._tokens = re.findall(r"'[^']*'|[A-Za-z]+|[().,]", text)
        self._scope, self._given, self._strict = scope, given, strict

    def value(self) -> Any:
        token = self._tokens.pop(0)
        if token.startswith("'"):
            return token[1:-1]
        self._tokens.pop(0)  # the bracket
        arguments = []
        while self._tokens[0] != ")":
            arguments.append(self.value())
            if self._tokens[0] == ",":
                self._tokens.pop(0)
        self._tokens.pop(0)
        path = []
        while self._tokens and self._tokens[0] == ".":
            self._tokens.pop(0)
            path.append(self._tokens.pop(0))
        return self._call(token, arguments, ".".join(path))

    def _call(self, function: str, arguments: list[str], path: str) -> Any:
        scope = self._scope
        if function == "parameters":
            return self._given[arguments[0]]
        if function == "concat":
            return "".join(arguments)
        if function == "resourceGroup":
            return scope.home
        if function == "guid":
            return str(uuid.uuid5(_NAMESPACE, "-".join(arguments)))
        if function == "subscription":
            return str(uuid.uuid5(_NAMESPACE, f"{scope.subscription}/{path}"))
        if function == "subscriptionResourceId":
            return f"/subscriptions/{scope.subscription}/providers/{arguments[0]}/{arguments[1]}"
        if function == "resourceId":
            group, kind, *names = arguments
            namespace, *types = kind.split("/")
            pairs = "/".join(f"{a}/{b}" for a, b in zip(types, names, strict=True))
            return f"/subscriptions/{scope.subscription}/resourceGroups/{group}/providers/{namespace}/{pairs}"
        if function == "reference":
            if self._strict and arguments[0].lower() not in scope.there:
                raise Refused(404, "ResourceNotFound", f"reference() to {arguments[0]}, which is not there.")
            return made_up(arguments[0], path, scope.there.get(arguments[0].lower(), {}).get("location", ""))
        raise Refused(400, "InvalidTemplate", f"the stand-in does not know the function {function}")


def made_up(own: str, path: str, location: str) -> str:
    """A property that Azure makes up, of the form that Azure gives it; a GUID where it has no form."""
    name, guid = own.rpartition("/")[2], str(uuid.uuid5(_NAMESPACE, f"{own.lower()}/{path}"))
    forms = {
        "fqdn": f"{name}-{guid[:8]}.hcp.{location}.azmk8s.io",
        "fullyQualifiedDomainName": f"{name}.postgres.database.azure.com",
        "hostName": f"{name}.{location}.redis.azure.net",
        "ipAddress": f"203.0.113.{int(guid[:2], 16)}",  # RFC 5737: nobody's
        "loginServer": f"{name}.azurecr.io",
        "metrics.prometheusQueryEndpoint": f"https://{name}-{guid[:4]}.{location}.prometheus.monitor.azure.com",
        "privateFQDN": f"{name}-{guid[:8]}.privatelink.{location}.azmk8s.io",
        "vaultUri": f"https://{name}.vault.azure.net/",
    }
    return forms.get(path, guid)
