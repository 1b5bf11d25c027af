"""What `helm template` printed, as far as the rules look at it: workloads in the form of declared ones."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict
from pydantic.alias_generators import to_camel
from pydantic_core import PydanticCustomError

from ci.architecture.chart import Fit
from ci.architecture.kubernetes import Taint
from ci.architecture.model import Architecture
from ci.errors import BadInput, Place
from ci.quantities import quantity, whole
from ci.yamlfile import Document, checked, load_all

__all__ = ["rendered_workloads"]


class _Printed(BaseModel):
    """A part of a Kubernetes object, as far as the rules look at it; the rest is Kubernetes' business."""

    model_config = ConfigDict(frozen=True, alias_generator=to_camel)


def _quantity(value: Any) -> Decimal:
    try:
        return quantity(value)
    except ValueError as error:
        what, _, how = str(error).partition(": ")
        raise PydanticCustomError("value", "{message}", {"message": what, "hint": how}) from None


Quantity = Annotated[Decimal, BeforeValidator(_quantity)]


class _Requests(_Printed):
    cpu: Quantity = Decimal(0)
    memory: Quantity = Decimal(0)


class _Resources(_Printed):
    requests: _Requests | None = None


class _Container(_Printed):
    resources: _Resources | None = None


class _Toleration(_Printed):
    key: str | None = None
    value: str = "true"
    effect: Literal["NoSchedule", "NoExecute", "PreferNoSchedule"] = "NoSchedule"


class _Pod(_Printed):
    containers: tuple[_Container, ...]
    node_selector: dict[str, str] | None = None
    tolerations: tuple[_Toleration, ...] | None = None
    termination_grace_period_seconds: float | None = None
    host_network: bool | None = None


class _Template(_Printed):
    spec: _Pod


class _Named(_Printed):
    name: str


class _WorkloadSpec(_Printed):
    replicas: int | None = None
    template: _Template


class _Workload(_Printed):
    kind: str
    metadata: _Named
    spec: _WorkloadSpec


class _Autoscaling(_Printed):
    """Of a HorizontalPodAutoscaler; what is left out is Kubernetes' own."""

    scale_target_ref: _Named
    min_replicas: int | None = None
    max_replicas: int


class _Autoscaler(_Printed):
    spec: _Autoscaling


class _Scaling(_Printed):
    """Of KEDA's ScaledObject; what is left out is KEDA's own."""

    scale_target_ref: _Named
    min_replica_count: int | None = None
    max_replica_count: int | None = None


class _ScaledObject(_Printed):
    spec: _Scaling


def rendered_workloads(manifests: Path, architecture: Architecture) -> tuple[Fit, ...]:
    """The Deployments and StatefulSets of `helm template`'s output; BadInput says which line is wrong."""
    documents = load_all(manifests)
    if not any(isinstance(document.data.get("kind"), str) for document in documents):
        raise BadInput(
            "no rendered chart: Kubernetes objects are expected",
            place=Place(file=manifests, line=1),
            hint="helm template voice helm/voice-assistant --values values.yaml > FILE",
        )
    scaled = dict(_scaled(documents))
    pools = {
        **{("kubernetes.azure.com/agentpool", name): name for name in architecture.kubernetes.pools},
        **{
            label: name
            for name, pool in architecture.kubernetes.pools.items()
            for label in pool.labels.items()
        },
    }
    return tuple(
        _fit(checked(_Workload, document), document, scaled, pools, architecture)
        for document in documents
        if document.data.get("kind") in ("Deployment", "StatefulSet")
    )


def _scaled(documents: Sequence[Document]) -> Iterator[tuple[str, tuple[int, int]]]:
    """The fewest and the most pods of what is scaled, by name."""
    for document in documents:
        if document.data.get("kind") == "HorizontalPodAutoscaler":
            pods = checked(_Autoscaler, document).spec
            yield pods.scale_target_ref.name, (_or(pods.min_replicas, 1), pods.max_replicas)
        elif document.data.get("kind") == "ScaledObject":
            keda = checked(_ScaledObject, document).spec
            fewest, most = _or(keda.min_replica_count, 0), _or(keda.max_replica_count, 100)
            yield keda.scale_target_ref.name, (fewest, most)


def _or(value: int | None, default: int) -> int:
    return default if value is None else value


def _fit(
    workload: _Workload,
    document: Document,
    scaled: Mapping[str, tuple[int, int]],
    pools: dict[tuple[str, str], str],
    architecture: Architecture,
) -> Fit:
    name, pod = workload.metadata.name, workload.spec.template.spec
    workloads = architecture.kubernetes.workloads
    known = next((key for key in workloads if name == key or name.endswith(f"-{key}")), None)
    requests = [one.resources.requests for one in pod.containers if one.resources and one.resources.requests]
    selected = [pools[label] for label in (pod.node_selector or {}).items() if label in pools]
    fixed = _or(workload.spec.replicas, 1)
    fewest, most = scaled.get(name, (fixed, fixed))
    grace = pod.termination_grace_period_seconds
    return Fit(
        name=name,
        pool=selected[0] if selected else None,
        tolerates=tuple(
            Taint(key=one.key, value=one.value, effect=one.effect) for one in pod.tolerations or () if one.key
        ),
        cpu_millicores=whole(sum((one.cpu for one in requests), Decimal(0)) * 1000),
        memory_mib=whole(sum((one.memory for one in requests), Decimal(0)) / 2**20),
        min_pods=fewest,
        max_pods=most,
        grace_seconds=30.0 if grace is None else grace,
        drain_seconds=workloads[known].drain.total_seconds() if known else None,
        host_network=bool(pod.host_network),
        declared_as=known,
        rendered=True,
        place=lambda fact: replace(document.place(), key=f"{workload.kind}/{name} {fact}"),
    )
