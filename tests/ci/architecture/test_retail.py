"""The price updater against a transport that speaks the Azure Retail Prices API."""

from __future__ import annotations

import asyncio
from datetime import date
from pathlib import Path

import httpx
import pytest

from ci.architecture.retail import refresh
from ci.errors import SystemUnavailable
from ci.yamlfile import load

TODAY = date(2026, 12, 1)
FILE = """# kept: a comment
prices:
  - {id: vm D4, unit: hour, usd: {eastus: 0.1, westeurope: 0.2}, source: "as remembered, once", read: 2026-11-23, meter: {serviceName: Virtual Machines, armSkuName: Standard_D4s_v5}}
  - {id: acr, unit: month, usd: {eastus: 50}, source: as remembered, read: 2026-11-23, meter: {serviceName: Container Registry, meterName: Premium Registry Unit}}
  - {id: odd, unit: hour, usd: {eastus: 7}, source: as remembered, read: 2026-11-23, meter: {serviceName: Odd}}
  - {id: fixed, unit: hour, usd: {eastus: 9}, source: as remembered, read: 2026-11-23}
"""  # noqa: E501


@pytest.fixture
def prices(tmp_path: Path) -> Path:
    file = tmp_path / "prices.yaml"
    file.write_text(FILE)
    return file


def _item(price: float, unit: str = "1 Hour", **more: object) -> dict[str, object]:
    return {
        "retailPrice": price,
        "unitOfMeasure": unit,
        "productName": "Ds Series",
        "skuName": "D4s v5",
        **more,
    }


class Api:
    """Answers like the service: filters, pages, throttles the first request."""

    def __init__(self) -> None:
        self.queries: list[str] = []
        self.throttled = False

    def __call__(self, request: httpx.Request) -> httpx.Response:
        if not self.throttled:
            self.throttled = True
            return httpx.Response(429, headers={"Retry-After": "0"})
        query = request.url.params.get("$filter", "page two")
        self.queries.append(query)
        if query == "page two":
            return httpx.Response(200, json={"Items": [_item(0.19)], "NextPageLink": None})
        if "Virtual Machines" in query and "eastus" in query:
            noise = [
                _item(0.4, productName="Ds Series Windows"),
                _item(0.05, skuName="D4s v5 Spot"),
                _item(0.03, tierMinimumUnits=100),
            ]
            following = "https://prices.azure.com/api/retail/prices?$skip=100"
            return httpx.Response(200, json={"Items": noise, "NextPageLink": following})
        if "Virtual Machines" in query:
            return httpx.Response(200, json={"Items": [_item(0.23)], "NextPageLink": None})
        if "Container Registry" in query:
            return httpx.Response(200, json={"Items": [_item(1.6666, "1/Day")], "NextPageLink": None})
        return httpx.Response(200, json={"Items": [_item(1), _item(2)], "NextPageLink": None})


async def _refresh(file: Path, answer: object, **more: bool) -> list[tuple[str, str, float | None, str]]:
    async with httpx.AsyncClient(transport=httpx.MockTransport(answer)) as client:  # type: ignore[arg-type]
        changes = await refresh(file, client, today=TODAY, **more)
    return [(change.item, change.region, change.after, change.why) for change in changes]


def test_prices_found_are_written_and_the_others_told_of(prices: Path) -> None:
    api = Api()
    changes = asyncio.run(_refresh(prices, api))
    assert changes == [
        ("vm D4", "eastus", 0.19, ""),
        ("vm D4", "westeurope", 0.23, ""),
        ("acr", "eastus", pytest.approx(50.69, abs=0.01), ""),
        ("odd", "eastus", None, "2 different prices"),
    ]
    assert any(
        "armSkuName eq 'Standard_D4s_v5' and armRegionName eq 'eastus' and priceType eq 'Consumption'"
        in query
        for query in api.queries
    )
    lines = {line["id"]: line for line in load(prices).data["prices"]}
    assert lines["vm D4"]["usd"] == {"eastus": 0.19, "westeurope": 0.23}
    assert (lines["vm D4"]["source"], lines["vm D4"]["read"]) == ("Azure Retail Prices API", TODAY)
    assert lines["odd"]["usd"] == {"eastus": 7} and lines["odd"]["source"] == "as remembered"
    assert lines["fixed"]["read"] == date(2026, 11, 23)
    assert prices.read_text().startswith("# kept: a comment\n")


def test_a_look_without_writing(prices: Path) -> None:
    asyncio.run(_refresh(prices, Api(), write=False))
    assert prices.read_text() == FILE


@pytest.mark.parametrize(
    "answer",
    [
        lambda request: httpx.Response(503),
        lambda request: httpx.Response(200, text="<html>"),
        lambda request: (_ for _ in ()).throw(httpx.ConnectError("no route")),
    ],
)
def test_a_service_that_does_not_answer_leaves_the_file_alone(prices: Path, answer: object) -> None:
    with pytest.raises(SystemUnavailable):
        asyncio.run(_refresh(prices, answer))
    assert prices.read_text() == FILE


@pytest.mark.parametrize(
    ("status", "header"),
    [
        (429, "Sun, 06 Dec 2026 08:00:00 GMT"),
        (503, "Sunday, 06-Dec-26 08:00:00 GMT"),
        (503, "0.0"),
    ],
)
def test_who_asks_for_patience_is_asked_again_whichever_way_it_says_when(
    prices: Path, status: int, header: str
) -> None:
    api, waited = Api(), []

    def answer(request: httpx.Request) -> httpx.Response:
        if len(waited) < 2:
            waited.append(request)
            now = "Sun, 06 Dec 2026 08:00:00 GMT"
            return httpx.Response(status, headers={"Retry-After": header, "Date": now})
        return api(request)

    assert asyncio.run(_refresh(prices, answer))[0] == ("vm D4", "eastus", 0.19, "")


def test_nobody_waits_for_a_day(prices: Path) -> None:
    with pytest.raises(SystemUnavailable, match="in 86400 s"):
        asyncio.run(_refresh(prices, lambda _: httpx.Response(429, headers={"Retry-After": "86400"})))


@pytest.mark.parametrize("link", ["https://prices.azure.com/api/retail/prices", "http://elsewhere.example/"])
def test_a_next_page_that_was_read_or_is_elsewhere_ends_it(prices: Path, link: str) -> None:
    page = {"Items": [], "NextPageLink": link}
    with pytest.raises(SystemUnavailable, match="next page"):
        asyncio.run(_refresh(prices, lambda _: httpx.Response(200, json=page)))


def test_the_real_table_can_be_rewritten(tmp_path: Path) -> None:
    from ci.architecture.cost import prices_file

    copy = tmp_path / "prices.yaml"
    copy.write_text(prices_file().read_text())
    units = {
        "hour": "1 Hour",
        "month": "1/Month",
        "gb-month": "1 GB/Month",
        "gb": "1 GB",
        "million": "1M",
        "10k": "10K",
    }
    by_meter = {
        tuple(sorted(line["meter"].items())): units[line["unit"]]
        for line in load(copy).data["prices"]
        if "meter" in line
    }

    def answer(request: httpx.Request) -> httpx.Response:
        query = request.url.params["$filter"]
        unit = next(u for meter, u in by_meter.items() if all(f"{k} eq '{v}'" in query for k, v in meter))
        return httpx.Response(200, json={"Items": [_item(0.5, unit)], "NextPageLink": None})

    changes = asyncio.run(_refresh(copy, answer))
    assert all(after == 0.5 for _, _, after, _ in changes)
    assert all(set(line["usd"].values()) == {0.5} for line in load(copy).data["prices"] if "meter" in line)
