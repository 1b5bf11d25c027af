"""The environments that a release moves through, read from `environments/<estate>/<name>.yaml`.

An estate is a set of environments on one kind of infrastructure: `local` is the embedded platform. Files are
overlays (`extends: ../base.yaml`, see ci.yamlfile): mappings are laid over each other key by key, a list
replaces a list. A wrong file is one BadInput that names file, line and key of every mistake, raised before
anything is touched.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal, cast
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, JsonValue, model_validator
from pydantic_core import PydanticCustomError

from ci import places, yamlfile
from ci.complaints import did_you_mean, shown
from ci.errors import BadInput
from ci.units import meant, meant_duration

__all__ = [
    "Canary",
    "CanaryStep",
    "Environment",
    "ErrorGate",
    "Gates",
    "Geography",
    "LatencyGate",
    "Load",
    "OnInconclusive",
    "Registries",
    "RestartGate",
    "SaturationGate",
    "SecretCopy",
    "Target",
    "Trust",
    "TrustedSigner",
    "estates",
    "geography",
    "names",
    "parse_seconds",
    "read_environment",
    "read_environments",
]

_ARCHITECTURE = "architecture"
"""What the targets are made of is declared there: see ci.architecture."""
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


_CENTURY = 36525 * 86400.0


def _mistake(message: str, hint: str) -> PydanticCustomError:
    return PydanticCustomError("value", "{message}", {"message": message, "hint": hint})


def _seconds(value: object) -> object:
    form = meant(meant_duration(value, smallest="ms")) or "write 500ms, 10s, 5m, 1h or 30d"
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        raise _mistake(f"a duration needs a unit, not {shown(value)}", form)
    parts = (
        re.fullmatch(r"([0-9]{1,12}(?:\.[0-9]{1,6})?)(ms|s|m|h|d)", value) if isinstance(value, str) else None
    )
    if parts is None:
        raise _mistake(f"{shown(value)} is not a duration", form)
    if (seconds := float(parts[1]) * _UNITS[parts[2]]) > _CENTURY:
        raise _mistake(f"{shown(value)} is longer than a century", "a duration that somebody lives to see")
    return seconds


def parse_seconds(text: str, *, what: str) -> float:
    """A duration as people write it (500ms, 10s, 5m, 1h, 30d) in seconds; BadInput names `what` it is of."""
    try:
        return float(cast(float, _seconds(text)))
    except PydanticCustomError as error:
        raise BadInput(f"{what}: {error.message()}", hint=(error.context or {}).get("hint", "")) from error


def _is_host(text: str) -> bool:
    """Whether that is `host` or `host:port`: a name, or an address of either kind."""
    if not re.fullmatch(r"([A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?|\[[0-9a-fA-F:.]+\])(:[0-9]{1,5})?", text):
        return False
    try:
        parts = urlsplit(f"//{text}")
        return bool(parts.hostname) and parts.port != 0
    except ValueError:  # no such port, no such address
        return False


def _address(value: str) -> str:
    if not _is_host(value):
        host = re.sub(r"^[a-z]+://|/.*$", "", value)
        form = "write host or host:port, with no scheme and no path"
        raise _mistake(f"{shown(value)} is not a registry", meant(host) if host != value else form)
    return value


def _url(value: str) -> str:
    found = re.fullmatch(r"https?://([^/\s]+)(/\S*)?", value)
    if found is None or not _is_host(found[1]):
        raise _mistake(
            f"{shown(value)} is not an http or https URL", "write scheme and host: http://host:port"
        )
    return value.rstrip("/")


def _container(value: str) -> str:
    found = re.fullmatch(r"(https?)://([^/\s]+)((?:/[A-Za-z0-9-]+){1,2})/?", value)
    at_home = found is not None and (urlsplit(value).hostname or "") in ("127.0.0.1", "::1", "localhost")
    if found is None or not _is_host(found[2]) or (found[1] == "http" and not at_home):
        raise _mistake(
            f"{shown(value)} is no container of blobs",
            "write https://ACCOUNT.blob.core.windows.net/CONTAINER; who may write to it is for Entra to say",
        )
    if not re.fullmatch(r"(?=.{3,63}$)[a-z0-9]+(-[a-z0-9]+)*", found[3].rpartition("/")[2]):
        raise _mistake(
            f"{shown(value)} is no container of blobs",
            "a container's name has 3 to 63 small letters, digits and single hyphens",
        )
    return value.rstrip("/")


def _path(value: object) -> object:
    if not isinstance(value, str):
        return value
    try:
        if value.isprintable() and not re.search(r"\$(?!\{state\})", value):
            return Path(value.replace("${state}", str(places.state()))).expanduser()
    except RuntimeError:  # nobody here is called as after its `~`
        pass
    raise _mistake(f"{shown(value)} is no name of a file", "a path; ${state} is where `va up` keeps things")


def _committed(value: object) -> object:
    """A file that may be part of the checkout: named from there, wherever the command is run."""
    path = _path(value)
    return places.checkout() / path if isinstance(path, Path) else path


def _threshold(value: object) -> object:
    if isinstance(value, str) and value[:1].isalpha() and value != "baseline":
        raise _mistake(f"{shown(value)} is not a duration", "baseline, or a duration: 500ms")
    return value if value == "baseline" else _seconds(value)


def _written_as(expression: str, words: str) -> AfterValidator:
    """Text of a form that words can tell, since no expression is shown to anybody."""

    def check(value: str) -> str:
        if re.fullmatch(expression, value) is None:
            raise _mistake(f"{shown(value)} is not how it is written", words)
        return value

    return AfterValidator(check)


Seconds = Annotated[float, BeforeValidator(_seconds), Field(ge=0, allow_inf_nan=False)]
"""Written with a unit: 500ms, 10s, 5m, 1h, 30d."""
_Share = Annotated[float, Field(gt=0, lt=1, allow_inf_nan=False)]
_Margin = Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)]
_Url = Annotated[str, AfterValidator(_url)]
_Name = Annotated[
    str,
    _written_as(
        r"[a-z]([a-z0-9-]{0,40}[a-z0-9])?", "at most 42 small letters, digits and hyphens, a letter first"
    ),
]
_Wave = Annotated[tuple[_Name, ...], Field(min_length=1, strict=False)]


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")


class Target(_Model):
    """A place that a release is installed to: one environment in one region."""

    environment: str
    region: str
    kubeconfig: Annotated[Path, BeforeValidator(_path)]
    context: str
    namespace: Annotated[
        str,
        _written_as(
            r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?",
            "at most 63 small letters, digits and hyphens, none at an end",
        ),
    ]
    registry: Annotated[str, AfterValidator(_address)]
    """Where the cluster pulls from: host or host:port."""
    metrics: _Url
    """The Prometheus that scrapes this target's pods."""
    gateway: _Url
    hostname: Annotated[
        str,
        _written_as(
            r"(?=.{1,253}$)[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*",
            "names joined by dots, each of at most 63 small letters, digits and hyphens, none at an end",
        ),
    ]
    """The name that the gateway routes to this target."""

    @property
    def name(self) -> str:
        """`prod/eastus`."""
        return f"{self.environment}/{self.region}"


class CanaryStep(_Model):
    """`weight` percent of the requests go to the canary for at least `bake` seconds."""

    weight: Annotated[int, Field(ge=1, le=99)]
    bake: Seconds


class Canary(_Model):
    """How traffic moves to a new release."""

    steps: Annotated[tuple[CanaryStep, ...], Field(strict=False)]
    """None: stable is upgraded without a canary and without a gate, and some sessions are tried."""
    follow: Seconds
    """How long the gateway may take to follow a change of weights."""
    drain: Seconds
    """How long requests in flight have to end after traffic has left the canary, before it is removed."""
    install: Seconds
    """How long Helm waits for pods to be ready."""
    values: dict[str, JsonValue] = {}
    """Chart values of the canary alone, laid over those of the environment."""


class OnInconclusive(StrEnum):
    """What happens when a step's gates could not decide before the deadline."""

    HOLD = "hold"
    """Traffic to stable, the canary stays installed: a person decides, or the same command goes on."""
    ROLLBACK = "rollback"
    """As if a gate had failed."""
    PROMOTE = "promote"
    """As if the gates had passed; said plainly in the result."""


class ErrorGate(_Model):
    """Sessions that failed, canary against stable. FAIL: ratio > 1 + margin. PASS: ratio < 1 + harm, or a
    rate below `tolerated` whatever stable's is."""

    margin: _Margin
    harm: _Margin
    tolerated: _Share


class LatencyGate(_Model):
    """Slow sessions: longer than `threshold` seconds, or than the baseline's quantile 1 - `share` when it
    says `baseline`. FAIL: more than `share` (x 1 + margin) of the canary's are slow; or, `against` stable,
    more than 1 + margin times stable's share: for a place whose own noise makes both tracks slow."""

    threshold: Annotated[float | Literal["baseline"], BeforeValidator(_threshold)]
    against: Literal["objective", "stable"] = "stable"
    share: _Share
    margin: _Margin
    harm: _Margin

    @model_validator(mode="after")
    def _comparable(self) -> LatencyGate:
        if self.threshold == "baseline" and self.against == "objective":
            raise ValueError(
                "against: objective needs a time as threshold; the baseline's own is no objective"
            )
        return self


class RestartGate(_Model):
    """Container restarts by pod-hours, canary against stable, or against a rate known beforehand."""

    margin: _Margin
    per_pod_hour: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None


class SaturationGate(_Model):
    """Memory above `limit` of its limit for `samples` looks in a row."""

    limit: _Share
    samples: Annotated[int, Field(ge=1)]


class Gates(_Model):
    """What decides a canary step; see docs/gates.md for the method."""

    alpha: _Share
    """The chance of a false alarm in one promotion of this environment, over all metrics and regions."""
    beta: _Share
    """The chance that one step of a harmful canary passes."""
    look: Annotated[Seconds, Field(gt=0)]
    """Time between two looks at the numbers."""
    deadline: Seconds
    """From the start of a step; then the verdict is inconclusive."""
    stale: Seconds
    """A sample older than this is no data."""
    on_inconclusive: Annotated[OnInconclusive, Field(strict=False)]
    errors: ErrorGate
    latency: LatencyGate | None = None
    restarts: RestartGate | None = None
    saturation: SaturationGate | None = None


class Load(_Model):
    """Synthetic users, where real ones are too few: sessions per second through the gateway."""

    rate: Annotated[float, Field(gt=0, le=1000, allow_inf_nan=False)]
    timeout: Seconds = 5.0
    concurrency: Annotated[int, Field(ge=1, le=1000)] = 64


class TrustedSigner(_Model):
    """Who may sign: whoever holds a key, or whom an OIDC issuer calls by a name (keyless)."""

    key: Annotated[Path, BeforeValidator(_committed)] | None = None
    """The public key, PEM."""
    identity: str | None = None
    """The certificate's subject: a workflow's address, say; in one of a URI `*` stands for anything."""
    issuer: str | None = None
    """Who says so: the URL of the OIDC issuer, exactly."""
    trusted_root: Annotated[Path, BeforeValidator(_committed)] | None = None
    """The certificates and logs of the Sigstore that is believed, as JSON: nobody is asked for them."""

    @model_validator(mode="after")
    def _one_kind(self) -> TrustedSigner:
        keyless = (self.identity, self.issuer, self.trusted_root)
        if any(each is None for each in keyless) if self.key is None else any(keyless):
            raise ValueError(
                "a signer is a `key`, or an `identity` with its `issuer` and a `trusted_root` to verify by: "
                "cosign trusted-root create --with-default-services --out FILE"
            )
        # What is before the first `*` is all that nobody else can have: scheme, host and owner.
        if "*" in (self.identity or "") and not re.match(r"https://[^/*]+/[^/*]+/", self.identity or ""):
            raise ValueError(
                f"the identity {self.identity!r} could be anybody's: write scheme, host and owner out before "
                "the first `*`, as in https://github.com/OWNER/*"
            )
        return self

    def is_called(self, identity: str, issuer: str) -> bool:
        """Whether that identity, by that issuer, is the one that is meant here."""
        pattern = ".*".join(re.escape(part) for part in (self.identity or "").split("*"))
        return self.issuer == issuer and re.fullmatch(pattern, identity) is not None

    def __str__(self) -> str:
        return f"the key {self.key}" if self.key else f"{self.identity} (issuer {self.issuer})"


class Trust(_Model):
    """What a release has to prove before anything of it runs here."""

    signers: Annotated[tuple[TrustedSigner, ...], Field(min_length=1, strict=False)]
    """Any one of them has to have signed the release, each image and the chart."""
    builders: Annotated[tuple[str, ...], Field(min_length=1, strict=False)]
    """Who may have built it, by its provenance: URIs, in which `*` stands for anything."""
    uncommitted_changes: bool = False
    """Whether it may have been built of a work tree with changes that are in no commit."""


class SecretCopy(_Model):
    """A secret that the chart wants in the target's namespace, copied from where the platform keeps it."""

    name: str
    source: Annotated[str, _written_as(r"[a-z0-9-]+/[a-z0-9.-]+", "namespace/name, in small letters")]
    """`namespace/name`."""
    keys: dict[str, str]
    """`{key in the copy: key in the source}`."""


class Registries(_Model):
    """Where an estate publishes, and who brings it from there to the registries that targets pull from."""

    home: Annotated[str, AfterValidator(_address)]
    """The one endpoint that is pushed to: host or host:port."""
    replication: _Url | None = None
    """What replicates and says how far it is (ci.supply.replication); None: only registries can be asked."""
    deadline: Seconds = 60.0
    """How long publishing waits for a region that has not got all of a release yet."""


class Environment(_Model):
    """One environment: its targets, in which order they get a release, and what a release has to stand."""

    estate: str
    name: str
    after: str | None = None
    """The environment that a release has to be in before this one."""
    waves: Annotated[tuple[_Wave, ...], Field(min_length=1, strict=False)]
    """Regions in the order they get a release, smallest blast radius first; those of one wave at once."""
    wave_bake: Seconds = 0.0
    targets: dict[_Name, Target]
    canary: Canary
    gates: Gates
    trust: Trust
    registries: Registries | None = None
    load: Load | None = None
    secrets: Annotated[tuple[SecretCopy, ...], Field(strict=False)] = ()
    ledger: Annotated[str, AfterValidator(_container)] | None = None
    """The container of blobs that all who promote here share a ledger in; None: each machine has its own."""
    values: dict[str, JsonValue] = {}
    """Chart values of this environment."""

    def target(self, region: str) -> Target:
        """The target in that region; BadInput lists the known ones."""
        if region not in self.targets:
            raise BadInput(
                f"unknown target {self.name}/{region}",
                hint=did_you_mean(region, self.targets),
            )
        return self.targets[region]


def estates(root: Path | None = None) -> tuple[str, ...]:
    """The estates there are: the folders with environments, but not the one with the architecture."""
    folder = root or places.checkout() / "environments"
    found = (path.parent.name for path in folder.glob("*/*.yaml"))
    return tuple(sorted({name for name in found if _is_name(name)} - {_ARCHITECTURE}))


def _is_name(text: str) -> bool:
    """Whether it can be one of an estate or environment: both are parts of paths, and typed by people."""
    return re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,40}[a-z0-9])?", text) is not None


def _name(text: str, what: str) -> None:
    if not _is_name(text):
        raise BadInput(
            f"{text[:80]!r} is not the name of {what}", hint="it has small letters, digits and dashes"
        )


def names(estate: str, root: Path | None = None) -> tuple[str, ...]:
    """The environments of an estate, by name; BadInput lists the known estates."""
    _name(estate, "an estate")
    folder = root or places.checkout() / "environments"
    known = estates(folder)
    if estate not in known:
        raise BadInput(
            f"unknown estate {estate!r} (the folders of {folder} are estates)",
            hint=did_you_mean(estate, known),
        )
    return tuple(sorted(path.stem for path in (folder / estate).glob("*.yaml") if _is_name(path.stem)))


def read_environment(estate: str, name: str, root: Path | None = None) -> Environment:
    """Read and check one environment; BadInput names every mistake with its file, line and key."""
    folder = root or places.checkout() / "environments"
    known = names(estate, folder)
    _name(name, "an environment")
    if name not in known:
        raise BadInput(
            f"unknown environment {name!r} of estate {estate}",
            hint=did_you_mean(name, known),
        )
    document = _document(estate, name, folder)
    _say_names(document, estate, name)
    environment = yamlfile.checked(Environment, document)
    for loc, mistake in _inconsistencies(environment, known):
        raise BadInput(mistake, place=document.place(*loc), hint="nothing was touched: mend the file")
    return environment


def _document(estate: str, name: str, root: Path | None) -> yamlfile.Document:
    folder = root or places.checkout() / "environments"
    return yamlfile.load_overlaid(folder / estate / f"{name}.yaml", within=folder)


def read_environments(
    estate: str, through: str | None = None, root: Path | None = None
) -> tuple[Environment, ...]:
    """The environments of an estate in promotion order (`after`), up to and with `through`.

    Only environments on the way to `through` are returned; all of the estate's when it is None.
    """
    ordered: list[Environment] = []

    def add(name: str, below: tuple[str, ...]) -> None:
        if name in below:
            raise BadInput(
                f"environments of {estate} wait for each other: {' -> '.join((*below, name))}",
                place=_document(estate, below[-1], root).place("after"),
                hint="one of them comes first: take its `after` out",
            )
        if any(environment.name == name for environment in ordered):
            return
        environment = read_environment(estate, name, root)
        if environment.after:
            add(environment.after, (*below, name))
        ordered.append(environment)

    for name in [through] if through else names(estate, root):
        add(name, ())
    return tuple(ordered)


@dataclass(frozen=True, kw_only=True)
class Geography:
    """The registries of an estate: the home that is pushed to, and the endpoint of each region."""

    home: str
    regions: Mapping[str, str]
    """`{region: endpoint}`, the home first if it is one of them."""
    replication: str | None
    deadline: float
    """Seconds."""


def geography(environments: Sequence[Environment]) -> Geography:
    """Which registries the targets of these environments pull from, and which of them is the home.

    BadInput when no environment says it, or two of them say different things.
    """
    estate = environments[0].estate
    said = {one.registries for one in environments}
    if len(said) != 1 or None in said:
        problem = "does not say" if said == {None} else "says in more than one way"
        raise BadInput(
            f"the estate {estate} {problem} which registry is its home",
            hint="write `registries: {home: host:port}` once, in the file that all of "
            f"environments/{estate} extend",
        )
    (registries,) = said
    assert registries is not None
    regions: dict[str, str] = {}
    for environment in environments:
        for region, target in environment.targets.items():
            if regions.setdefault(region, target.registry) != target.registry:
                raise BadInput(
                    f"{target.name} pulls from {target.registry}, other targets in {region} from "
                    f"{regions[region]}",
                    hint=f"a region has one endpoint: mend environments/{estate}/{environment.name}.yaml",
                )
    ordered = sorted(regions, key=lambda region: (regions[region] != registries.home, region))
    return Geography(
        home=registries.home,
        regions={region: regions[region] for region in ordered},
        replication=registries.replication,
        deadline=registries.deadline,
    )


def _say_names(document: yamlfile.Document, estate: str, name: str) -> None:
    """A file's own place says its environment's name: it is put in here, and refused inside the file."""
    for key in ("estate", "name"):
        if key in document.data:
            raise BadInput("the file's own name and folder say this: leave it out", place=document.place(key))
    document.data.update(estate=estate, name=name)
    targets = document.data.get("targets")
    for region, target in targets.items() if isinstance(targets, dict) else ():
        if isinstance(target, dict):
            target.update(environment=name, region=region)


_Loc = tuple[str | int, ...]


def _inconsistencies(environment: Environment, known: tuple[str, ...]) -> Iterator[tuple[_Loc, str]]:
    """What no single key can show: where it is, and what is wrong."""
    seen: set[str] = set()
    for number, wave in enumerate(environment.waves):
        for index, region in enumerate(wave):
            if region not in environment.targets:
                hint = did_you_mean(region, environment.targets)
                yield ("waves", number, index), f"region {region!r} has no target; {hint}"
            if region in seen:
                yield ("waves", number, index), f"region {region!r} is in two waves"
            seen.add(region)
    for region in sorted(environment.targets.keys() - seen):
        yield ("targets", region), "is in no wave: it would never get a release"
    steps = environment.canary.steps
    for index, step in enumerate(steps):
        if index and step.weight <= steps[index - 1].weight:
            yield (
                ("canary", "steps", index, "weight"),
                f"steps grow: more than {steps[index - 1].weight} is expected",
            )
        if step.bake > environment.gates.deadline:
            yield ("canary", "steps", index, "bake"), "is longer than gates.deadline: no step could pass"
    if environment.after is not None and (
        environment.after not in known or environment.after == environment.name
    ):
        others = [name for name in known if name != environment.name]
        yield ("after",), f"no environment {environment.after!r}; there is {', '.join(others) or 'no other'}"
