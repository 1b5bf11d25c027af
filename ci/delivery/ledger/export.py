"""The entries of an estate's ledgers for other programs: JSON with all of it, or CSV, a row an entry."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from datetime import UTC

from pydantic_core import to_json

from ci.delivery.ledger.entry import Entry
from ci.layout import clean, printable_json

__all__ = ["as_csv", "as_json"]

_COLUMNS = (
    "environment", "sequence", "time", "when", "who", "by", "promotion", "kind", "action", "target",
    "release", "fence", "weight", "result", "reason", "findings", "exposure", "detail", "previous", "hash",
)  # fmt: skip
_NESTED = ("findings", "exposure", "detail")
_FORMULA = ("=", "+", "-", "@", "＝", "＋", "－", "＠")


def as_json(ledgers: Mapping[str, Sequence[Entry]]) -> str:
    """A list of entries, each with its `environment`; times are ISO 8601 in UTC."""
    return printable_json(to_json(_rows(ledgers), indent=2, inf_nan_mode="strings").decode()) + "\n"


def as_csv(ledgers: Mapping[str, Sequence[Entry]]) -> str:
    """A row an entry (RFC 4180), what is nested as JSON in its cell.

    What a spreadsheet would take for a formula gets an apostrophe before it, and what would steer a
    terminal is written out: reasons are typed by people. JSON has them as they are.
    https://owasp.org/www-community/attacks/CSV_Injection
    """
    file = io.StringIO()
    rows = csv.DictWriter(file, _COLUMNS)
    rows.writeheader()
    for row in _rows(ledgers):
        rows.writerow({name: _cell(name, row[name]) for name in _COLUMNS})
    return file.getvalue()


def _rows(ledgers: Mapping[str, Sequence[Entry]]) -> list[dict[str, object]]:
    return [
        {
            "environment": environment,
            "when": entry.when.astimezone(UTC).isoformat(),
            "by": entry.by,
            **entry.model_dump(mode="json"),
        }
        for environment, entries in ledgers.items()
        for entry in entries
    ]


def _cell(name: str, value: object) -> object:
    if name in _NESTED:
        return json.dumps(value) if value else ""
    if not isinstance(value, str):
        return value
    text = clean(value)
    return f"'{text}" if text.lstrip().startswith(_FORMULA) else text
