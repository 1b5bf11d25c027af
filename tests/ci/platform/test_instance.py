from __future__ import annotations

import ipaddress
from pathlib import Path

import pytest

from ci.environments import names, read_environment
from ci.errors import BadInput
from ci.platform import addresses
from ci.platform.instance import ENVIRONMENTS, REGIONS, Instance, instance, sized

_PORTS = ("gateway", "gateway_admin", "prometheus", "livekit", "livekit_metrics")


def test_the_local_environments_name_this_platform(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VA_INSTANCE", raising=False)
    platform = addresses()

    targets = [
        target for name in names("local") for target in read_environment("local", name).targets.values()
    ]

    assert targets
    for target in targets:
        assert target.kubeconfig == platform.kubeconfig
        assert target.context == platform.context
        assert target.registry in platform.registries.values()
        assert str(target.metrics).rstrip("/") == platform.prometheus
        assert str(target.gateway).rstrip("/") == platform.gateway


def test_two_instances_share_no_port_name_subnet_or_folder() -> None:
    ports: list[int] = []
    marks: list[str] = []
    subnets: list[ipaddress.IPv4Network] = []
    for number in range(4):
        place = Instance(number=number, folder=Path(f"/x/{number}"))
        ports += [getattr(place, name) for name in _PORTS] + [place.livekit + 1, place.livekit + 2]
        ports += [place.redis(environment) for environment in ENVIRONMENTS]
        for name in REGIONS:
            region = place.region(name)
            ports.append(place.registry(name))
            marks += [region.node, region.link]
            link = f"{region.host_ip}/30"
            subnets += [ipaddress.ip_network(s, strict=False) for s in (link, region.pods, region.services)]

    assert len(set(ports)) == len(ports)
    assert len(set(marks)) == len(marks)
    assert not [(a, b) for i, a in enumerate(subnets) for b in subnets[:i] if a.overlaps(b)]


def test_the_kernel_takes_every_name() -> None:
    for number in range(10):
        for name in REGIONS:
            assert len(Instance(number=number, folder=Path("/x")).region(name).link) <= 15


@pytest.mark.parametrize("text", ["", "ten", "10", "-1"])
def test_a_wrong_instance_is_refused(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("VA_INSTANCE", text)

    with pytest.raises(BadInput, match="VA_INSTANCE"):
        instance()


def test_the_environments_of_three_clusters_name_each_its_own(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("VA_INSTANCE", raising=False)
    monkeypatch.setenv("VA_STATE", str(tmp_path))
    place = sized(instance(), 3)
    assert instance() == place  # it is remembered

    for environment in names("regions"):
        for target in read_environment("regions", environment).targets.values():
            region = place.region(target.region)
            assert target.kubeconfig == place.kubeconfig
            assert target.context == region.node
            assert target.registry == f"127.0.0.1:{place.registry(target.region)}"
            assert str(target.metrics).rstrip("/") == f"http://{region.node_ip}:{place.prometheus}"
            assert str(target.gateway).rstrip("/") == f"http://{region.node_ip}:{place.gateway}"


@pytest.mark.parametrize("clusters", [0, 4, -1])
def test_there_are_as_many_clusters_as_regions_at_most(clusters: int, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="from 1 to 3"):
        sized(Instance(number=0, folder=tmp_path), clusters)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("text", ["", "0", "many", "12"])
def test_a_size_that_is_none_is_as_if_none_was_remembered(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("VA_INSTANCE", raising=False)
    monkeypatch.setenv("VA_STATE", str(tmp_path))
    (tmp_path / "platform").mkdir()
    (tmp_path / "platform" / "clusters").write_text(text)

    assert instance().clusters == 1
