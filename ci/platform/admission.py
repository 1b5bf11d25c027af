"""The key that releases are signed with here, and the webhook that lets only signed images run.

The API server asks the webhook about each pod of a namespace that says its region (`va.dev/region`); those of
the platform itself do not. When the webhook does not answer, no such pod is made.
"""

from __future__ import annotations

import base64
import ipaddress
import json
import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from ci import places, tools
from ci.environments import TrustedSigner, read_environments
from ci.platform.certificates import administrator
from ci.platform.cluster import client
from ci.platform.daemon import Daemon, answers, as_part
from ci.platform.instance import REGIONS, Instance
from ci.platform.objects import apply
from ci.platform.part import Part, PartStatus, Say
from ci.reasons import reason_of
from ci.supply.signing import KeyPair, make_key_pair

__all__ = ["admission", "signing_key"]

_CONFIGURATION = "va-signed-images"
_REGION_LABEL = "va.dev/region"


def signing_key(place: Instance) -> Part:
    """Made once for each platform, by cosign."""
    pair = KeyPair(folder=place.signing)

    async def up(say: Say) -> bool:
        say(str(pair.folder))
        return await make_key_pair(pair, cosign=tools.path("cosign"))

    async def status() -> PartStatus:
        problem = "" if pair.private.is_file() and pair.public.is_file() else "not made"
        return PartStatus(name="signing key", problem=problem, detail=str(pair.public))

    async def down() -> None:
        """It goes with the platform's folder, as what it has signed does."""

    return Part(name="signing key", up=up, status=status, down=down, tools=("cosign",))


def admission(place: Instance) -> Part:
    """The webhook's process, and each cluster's word that it has to be asked."""
    folder = place.folder / "admission"
    certificate, private_key, trust = folder / "tls.crt", folder / "tls.key", folder / "trust.json"
    address = place.cluster.host_ip

    def daemon() -> Daemon:
        return Daemon(
            name="admission",
            argv=(
                *(sys.executable, "-m", "ci.supply.admission"),
                *("--address", address, "--port", str(place.admission)),
                *("--certificate", str(certificate), "--private-key", str(private_key)),
                *("--trust", str(trust)),
                *(f"{region}=127.0.0.1:{place.registry(region)}" for region in REGIONS),
            ),
            files={trust: _trusted(place)},
            env={"PYTHONPATH": str(places.checkout())},
            check=answers(f"https://{address}:{place.admission}/healthz"),
        )

    process = as_part(
        place,
        daemon,
        name="admission",
        needs=(
            *("signing key", place.cluster.node),
            *(f"{region.node} kube-apiserver" for region in place.regions),
        ),
    )

    async def up(say: Say) -> bool:
        if not (certificate.is_file() and private_key.is_file()):
            _make_certificate(certificate, private_key, address)
        changed = await process.up(say)
        wanted = _configuration(place, certificate.read_bytes())
        for region in place.regions:
            async with client(administrator(place, region)) as api:
                changed |= await apply(api, wanted)
        return changed

    async def status() -> PartStatus:
        said = await process.status()
        path = f"/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations/{_CONFIGURATION}"
        for region in place.regions:
            if said.problem or not administrator(place, region).exists():
                return said
            try:
                async with client(administrator(place, region)) as api:
                    found = await api.get(path, timeout=3)
            except (OSError, httpx.HTTPError) as error:
                said = replace(said, problem=place.named(region, reason_of(error)))
            else:
                said = said if found.is_success else replace(said, problem=place.named(region, "not asked"))
        return said

    return Part(name="admission", up=up, status=status, down=process.down, needs=process.needs)


def _trusted(place: Instance) -> str:
    """Who may sign what runs here: this platform's key, and whom environments of its estate trust beside it.

    Not the keys of other platforms, which are in the state folder as this one's is.
    """
    own = TrustedSigner(key=KeyPair(folder=place.signing).public)
    named = [one for environment in read_environments("local") for one in environment.trust.signers]
    others = [one for one in named if one.key is None or not one.key.is_relative_to(places.state())]
    signers = dict.fromkeys([own, *others])
    return json.dumps([one.model_dump(mode="json", exclude_none=True) for one in signers])


def _configuration(place: Instance, certificate: bytes) -> dict[str, Any]:
    """One webhook a region: each has its own registry, and a namespace's label says which is asked.

    One more for a label that names none of them: what would be in such a namespace nobody would look at.
    """
    asked: dict[str, list[dict[str, Any]]] = {
        region: [{"key": _REGION_LABEL, "operator": "In", "values": [region]}] for region in REGIONS
    }
    asked["other"] = [
        {"key": _REGION_LABEL, "operator": "Exists"},
        {"key": _REGION_LABEL, "operator": "NotIn", "values": [*REGIONS]},
    ]
    return {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingWebhookConfiguration",
        "metadata": {"name": _CONFIGURATION},
        "webhooks": [
            {
                "name": f"{region}.signed-images.va.dev",
                "clientConfig": {
                    "url": f"https://{place.cluster.host_ip}:{place.admission}/regions/{region}",
                    "caBundle": base64.b64encode(certificate).decode(),
                },
                "namespaceSelector": {"matchExpressions": expressions},
                "rules": [
                    {
                        "apiGroups": [""],
                        "apiVersions": ["v1"],
                        "operations": ["CREATE", "UPDATE"],
                        "resources": ["pods", "pods/ephemeralcontainers"],
                        "scope": "Namespaced",
                    }
                ],
                "failurePolicy": "Fail",
                "matchPolicy": "Equivalent",
                "sideEffects": "None",
                "timeoutSeconds": 10,
                "admissionReviewVersions": ["v1"],
            }
            for region, expressions in asked.items()
        ],
    }


def _make_certificate(certificate: Path, private_key: Path, address: str) -> None:
    """One that signs itself: the API server is told to trust this one and no other."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "va admission")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=3650))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(address))]), critical=False
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    certificate.parent.mkdir(parents=True, exist_ok=True)
    private_key.touch(mode=0o600)
    private_key.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    certificate.write_bytes(made.public_bytes(serialization.Encoding.PEM))
