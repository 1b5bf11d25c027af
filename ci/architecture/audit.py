"""Who did what, as a query over the audit logs of a region's workspace: one line a deed, whatever its object.

The tables are those that diagnostic settings send to; `AzureActivity` is there only where the subscription's
activity log is exported (Azure itself keeps that log 90 days). The columns are from Azure Monitor's table
reference (learn.microsoft.com, as remembered in 2026-11): the query was never run on Azure.
"""

from __future__ import annotations

__all__ = ["TABLES", "query"]

# table -> who, what, on what, from where, with what outcome
_DEEDS = {
    "AKSAuditAdmin": (
        "tostring(User.username)",
        'strcat(Verb, " ", tostring(ObjectRef.resource))',
        'strcat(tostring(ObjectRef.namespace), "/", tostring(ObjectRef.name))',
        "tostring(SourceIps[0])",
        "tostring(ResponseStatus.code)",
    ),
    "AZKVAuditLogs": (
        "coalesce(tostring(Identity.claim.upn), tostring(Identity.claim.appid))",
        "OperationName",
        "RequestUri",
        "CallerIpAddress",
        "tostring(HttpStatusCode)",
    ),
    "ContainerRegistryRepositoryEvents": (
        "Identity",
        "OperationName",
        'strcat(Repository, "@", Digest)',
        "CallerIpAddress",
        "ResultType",
    ),
    "ContainerRegistryLoginEvents": ("Identity", '"login"', "LoginServer", "CallerIpAddress", "ResultType"),
    "StorageBlobLogs": (
        "coalesce(RequesterUpn, RequesterObjectId)",
        "OperationName",
        "Uri",
        "CallerIpAddress",
        "StatusText",
    ),
    "AzureActivity": (
        "Caller",
        "OperationNameValue",
        "_ResourceId",
        "CallerIpAddress",
        "ActivityStatusValue",
    ),
}

TABLES = (*(table for table in _DEEDS if table != "AzureActivity"), "AKSControlPlane", "AGWAccessLogs",
          "AGWFirewallLogs", "PGSQLServerLogs", "REDConnectionEvents")  # fmt: skip
"""The workspace's tables that are kept as long as audit logs must be."""


def query(days: int) -> str:
    """The query, in Kusto's language: when, who, what, on what, from where, outcome; the newest first."""
    parts = [
        f"({table} | where TimeGenerated > ago({days}d) | project When = TimeGenerated, Who = {who}, "
        f'What = {what}, On = {on}, From = {source}, Outcome = {outcome}, Log = "{table}")'
        for table, (who, what, on, source, outcome) in _DEEDS.items()
    ]
    return "union isfuzzy=true\n  " + ",\n  ".join(parts) + "\n| order by When desc"
