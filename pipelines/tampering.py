"""What becomes of an image that someone altered: the promotion refuses its release, and the cluster its pod.

A drill: it changes the api's manifest, pushes that beside the real one, and tries to get it to run.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from ci.delivery import cluster as clusters
from ci.delivery.site import REGION_LABEL
from ci.environments import Environment
from ci.layout import Page, page, words
from ci.registry import parse_manifest, registry_at
from ci.release import Release
from ci.reporting import Reporter
from pipelines.verify import verify

__all__ = ["Tampered", "show_tampered", "tamper"]


@dataclass(frozen=True, kw_only=True)
class Tampered:
    """What was tried, and the words in which promotion and cluster refused it; empty: it was not refused."""

    image: str
    promotion: str
    cluster: str

    @property
    def refused(self) -> bool:
        # A cluster may have other reasons: what counts is that it says this image.
        return bool(self.promotion) and self.image in self.cluster


async def tamper(release: Release, environment: Environment, *, reporter: Reporter) -> Tampered:
    """Try to get an altered image of that release into the first target of an environment.

    Nothing is installed. The altered manifest stays in the registry, without a tag and without a signature.
    """
    region = environment.waves[0][0]
    target = environment.target(region)
    environment = environment.model_copy(update={"targets": {region: target}})
    original = release.images[0]
    with reporter.step(f"alter {original.name} and try to run it in {target.name}") as step:
        async with registry_at(target.registry) as registry:
            manifest = json.loads((await registry.manifest(original.name, original.digest)).raw)
            manifest["annotations"] = {**(manifest.get("annotations") or {}), "dev.va.altered": "true"}
            altered = parse_manifest(json.dumps(manifest, separators=(",", ":")).encode())
            await registry.put_manifest(original.name, altered)
        image = original.model_copy(update={"digest": altered.descriptor.digest})
        forged = release.model_copy(update={"images": (image, *release.images[1:])})
        verified = await verify(forged, [environment])
        cluster = clusters.connect(target.kubeconfig, target.context)
        await cluster.ensure_namespace(target.namespace, {REGION_LABEL: target.region})
        name = f"{target.registry}/{image.name}@{image.digest}"
        refusal = await cluster.refuses(target.namespace, name)
        found = Tampered(image=name, promotion=str(verified.error or ""), cluster=refusal)
        step.say("refused by both" if found.refused else "NOT refused")
    return found


def show_tampered(tampered: Tampered) -> Page:
    """The image, and the words of both."""
    return page(
        words((tampered.image, "bold")),
        f"  the promotion: {tampered.promotion or 'NOT refused'}",
        f"  the cluster: {tampered.cluster or 'NOT refused'}",
    )
