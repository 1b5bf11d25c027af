"""Current list prices from the Azure Retail Prices API, written back into prices.yaml line by line.

Protocol: GET https://prices.azure.com/api/retail/prices?$filter=…, an OData filter over serviceName,
armRegionName, armSkuName, meterName, productName and priceType; answers {Items: [{retailPrice, unitOfMeasure,
…}], NextPageLink}. No sign-in. Source: "Azure Retail Prices overview", learn.microsoft.com, read 2026-08.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import httpx

from ci.errors import BadInput, Place, SystemUnavailable
from ci.files import write_whole
from ci.retries import retry_after
from ci.yamlfile import load

__all__ = ["Change", "refresh"]

_URL = "https://prices.azure.com/api/retail/prices"
_TRIES = 5
_PATIENCE = 120.0
"""Seconds: who wants to be left alone for longer is told of, not waited for."""
_PARALLEL = 4
_UNCHANGED = "try later; prices.yaml is unchanged"

# What one of the API's units is in ours: `1/Day` is 30.4 of a month, `10K` and `1M` are counts.
_UNITS = {
    ("1 Hour", "hour"): 1.0,
    ("1/Hour", "hour"): 1.0,
    ("1/Month", "month"): 1.0,
    ("1/Day", "month"): 730 / 24,
    ("1 GB/Month", "gb-month"): 1.0,
    ("1 GB", "gb"): 1.0,
    ("1M", "million"): 1.0,
    ("10M", "million"): 0.1,
    ("10K", "10k"): 1.0,
    ("1", "month"): 1.0,
}


@dataclass(frozen=True, kw_only=True)
class Change:
    """One line's new price in one region, or why there is none (`after` is None then)."""

    item: str
    region: str
    before: float
    after: float | None
    why: str = ""


async def refresh(file: Path, client: httpx.AsyncClient, *, today: date, write: bool = True) -> list[Change]:
    """Look every line with a `meter` up; with `write` put what was found into the file, with source and day.

    A line that the API answers with no price, with several, or in another unit stays as it is and is told of.
    SystemUnavailable when the API does not answer; the file is then untouched.
    """
    lines = [line for line in load(file).data["prices"] if "meter" in line]
    gate = asyncio.Semaphore(_PARALLEL)

    async def one(line: Mapping[str, Any], region: str) -> Change:
        async with gate:
            items = [item async for item in _items(client, line["meter"], region)]
        before = float(line["usd"][region])
        prices = {
            round(item["retailPrice"] * factor, 6)
            for item in items
            if (factor := _UNITS.get((item["unitOfMeasure"], line["unit"]))) is not None
        }
        if len(prices) == 1:
            return Change(item=line["id"], region=region, before=before, after=prices.pop())
        units = sorted({item["unitOfMeasure"] for item in items})
        why = (
            f"{len(prices)} different prices"
            if prices
            else f"only per {', '.join(units)}"
            if units
            else "no price"
        )
        return Change(item=line["id"], region=region, before=before, after=None, why=why)

    changes = await asyncio.gather(*(one(line, region) for line in lines for region in line["usd"]))
    if write:
        text = file.read_text(encoding="utf-8")
        for change in changes:
            if change.after is not None:
                text = _put(text, change, today, file)
        write_whole(file, text)
    return list(changes)


async def _items(
    client: httpx.AsyncClient, meter: Mapping[str, str], region: str
) -> AsyncIterator[dict[str, Any]]:
    wanted = {**meter, "armRegionName": region, "priceType": "Consumption"}
    query = " and ".join(f"{key} eq '{value}'" for key, value in wanted.items())
    url: str | None = _URL
    params: dict[str, str] | None = {"$filter": query, "currencyCode": "USD"}
    seen = set()
    while url:
        if url in seen or httpx.URL(url).host != httpx.URL(_URL).host:
            raise SystemUnavailable(
                f"the Azure Retail Prices API names {url} as its next page", hint=_UNCHANGED
            )
        seen.add(url)
        answer = await _get(client, url, params)
        for item in answer["Items"]:
            # A VM has the same size on Windows, on spot capacity and at low priority.
            words = f"{item.get('productName', '')} {item.get('skuName', '')}"
            if item.get("tierMinimumUnits", 0) == 0 and not re.search("Windows|Spot|Low Priority", words):
                yield item
        url, params = answer.get("NextPageLink"), None


async def _get(client: httpx.AsyncClient, url: str, params: dict[str, str] | None) -> dict[str, Any]:
    for attempt in range(_TRIES):
        try:
            response = await client.get(url, params=params)
        except httpx.HTTPError as error:
            raise SystemUnavailable(
                f"the Azure Retail Prices API did not answer: {error}",
                hint=_UNCHANGED,
            ) from error
        wait = retry_after(response.headers)
        if wait is None and response.status_code == 429:
            wait = 2.0**attempt
        if wait is not None and response.status_code in (429, 503) and attempt < _TRIES - 1:
            if wait > _PATIENCE:
                raise SystemUnavailable(
                    f"the Azure Retail Prices API wants to be asked again in {wait:.0f} s",
                    hint="try then; prices.yaml is unchanged",
                )
            await asyncio.sleep(wait)
            continue
        if response.status_code != 200:
            break
        try:
            answer: dict[str, Any] = response.json()
            answer["Items"]
        except (ValueError, KeyError, TypeError) as error:
            raise SystemUnavailable(
                "the Azure Retail Prices API answered something else than prices"
            ) from error
        return answer
    raise SystemUnavailable(
        f"the Azure Retail Prices API answered {response.status_code}",
        hint=_UNCHANGED,
    )


def _put(text: str, change: Change, today: date, file: Path) -> str:
    """The one line changed, everything else (comments too) kept."""
    pattern = re.compile(rf"^(  - \{{id: {re.escape(change.item)}, .*)$", re.MULTILINE)
    match = pattern.search(text)
    if match is None:
        raise BadInput(f"the line of {change.item!r} is not in one piece", place=Place(file=file))
    line = match[1]
    line = re.sub(rf"(usd: \{{[^}}]*?\b{change.region}: )[0-9.]+", rf"\g<1>{change.after:g}", line)
    line = re.sub(r'source: ("[^"]*"|[^,]*)', "source: Azure Retail Prices API", line)
    line = re.sub(r"read: [0-9-]+", f"read: {today}", line)
    return text[: match.start()] + line + text[match.end() :]
