# ruff: noqa: E501 (one case of a mistake is one line)
from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ci import places
from ci.environments import (
    OnInconclusive,
    TrustedSigner,
    geography,
    names,
    read_environment,
    read_environments,
)
from ci.errors import BadInput
from ci.platform.instance import REGIONS, Instance

BASE = """\
canary:
  steps:
    - {weight: 10, bake: 1m}
    - {weight: 50, bake: 2m}
  follow: 1m
  drain: 30s
  install: 5m
gates:
  alpha: 0.05
  beta: 0.1
  look: 10s
  deadline: 1h
  stale: 1m
  on_inconclusive: hold
  errors: {margin: 0.1, harm: 0.5, tolerated: 0.01}
trust:
  signers: [{key: "${state}/cosign.pub"}]
  builders: ["urn:ci"]
"""
OWN = """\
extends: ../base.yaml
waves: [[eastus]]
targets:
  eastus:
    kubeconfig: ${state}/kubeconfig
    context: c
    namespace: va-dev
    registry: 127.0.0.1:5501
    metrics: http://127.0.0.1:9490
    gateway: http://127.0.0.1:8480/
    hostname: api.localhost
"""


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "environments"
    (folder / "here").mkdir(parents=True)
    (folder / "base.yaml").write_text(BASE)
    (folder / "here" / "dev.yaml").write_text(OWN)
    return folder


def wrong(root: Path, own: str, name: str = "dev") -> str:
    (root / "here" / f"{name}.yaml").write_text(own)
    with pytest.raises(BadInput) as caught:
        read_environment("here", name, root)
    return "; ".join([str(caught.value), caught.value.hint])


def test_an_environment_is_its_own_file_over_the_base(root: Path) -> None:
    own = (
        OWN
        + "gates: {on_inconclusive: rollback, errors: {harm: 2}}\ncanary: {steps: [{weight: 5, bake: 1s}]}\n"
    )
    (root / "here" / "dev.yaml").write_text(own)

    dev = read_environment("here", "dev", root)

    assert dev.gates.on_inconclusive is OnInconclusive.ROLLBACK
    assert (dev.gates.alpha, dev.gates.errors.margin, dev.gates.errors.harm) == (0.05, 0.1, 2)
    assert [(step.weight, step.bake) for step in dev.canary.steps] == [(5, 1.0)]  # a list replaces a list
    assert dev.canary.follow == 60.0
    target = dev.target("eastus")
    assert target.name == "dev/eastus"
    assert target.kubeconfig == places.state() / "kubeconfig"
    assert target.gateway == "http://127.0.0.1:8480"


@pytest.mark.parametrize(
    "ledger",
    [
        "https://acme.blob.core.windows.net/va-ledger",
        "http://127.0.0.1:10000/acme/ledger1",
        "http://[::1]:9/a/led",
    ],
)
def test_a_ledger_is_shared_in_a_container_of_blobs(root: Path, ledger: str) -> None:
    (root / "here" / "dev.yaml").write_text(f"ledger: {ledger}/\n{OWN}")
    assert read_environment("here", "dev", root).ledger == ledger


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("hostname:", "hostnam:", "environments/here/dev.yaml:11 (targets.eastus.hostnam): unknown key 'hostnam'; did you mean 'hostname'?"),
        ("    hostname: api.localhost\n", "", "environments/here/dev.yaml:4 (targets.eastus): the key 'hostname' is missing"),
        ("127.0.0.1:5501", "http://127.0.0.1:5501", "dev.yaml:8 (targets.eastus.registry): 'http://127.0.0.1:5501' is not a registry"),
        ("[[eastus]]", "[[eastuss]]", "dev.yaml:2 (waves[0][0]): region 'eastuss' has no target; did you mean 'eastus'?"),
        ("[[eastus]]", "[[eastus], [eastus]]", "(waves[1][0]): region 'eastus' is in two waves"),
        ("[[eastus]]", "[]", "dev.yaml:2 (waves)"),
        ("namespace: va-dev", "namespace: 7", "dev.yaml:7 (targets.eastus.namespace): text is expected, not 7"),
        ("namespace: va-dev", "namespace: a\n    namespace: b", "dev.yaml:8 (targets.eastus.namespace): the key 'namespace' is given twice (first on line 7)"),
        ("[[eastus]]", "[eastus]", "dev.yaml:2 (waves[0]): a list is expected, not 'eastus'"),
        ("127.0.0.1:5501", "127.0.0.1:70000", "dev.yaml:8 (targets.eastus.registry): '127.0.0.1:70000' is not a registry"),
        ("127.0.0.1:5501", "[::g]:5000", "dev.yaml:8"),
        ("http://127.0.0.1:8480", "http://[::1", "'http://[::1/' is not an http or https URL"),
        ("http://127.0.0.1:8480", "http://::1/", "is not an http or https URL"),
        ("http://127.0.0.1:8480", "https://host:0", "is not an http or https URL"),
        ("api.localhost", "Api_localhost", "dev.yaml:11 (targets.eastus.hostname): 'Api_localhost' is not how it is written"),
        ("${state}/kubeconfig", "${stat}/kubeconfig", "dev.yaml:5 (targets.eastus.kubeconfig): '${stat}/kubeconfig' is no name of a file"),
        ("waves:", "after: prod\nwaves:", "dev.yaml:2 (after): no environment 'prod'"),
        ("waves:", "name: x\nwaves:", "dev.yaml:2 (name): the file's own name and folder say this"),
        ("waves: [[eastus]]", "waves: [[eastus]", "dev.yaml:3: not YAML"),
        ("waves: [[eastus]]", "waves: " + "[" * 60 + "]" * 60, "nested deeper than"),
        ("waves: [[eastus]]", "waves: [[eastus]]\nwave_bake: 30", "dev.yaml:3 (wave_bake): a duration needs a unit"),
        ("waves: [[eastus]]", "waves: [[eastus]]\nwave_bake: .inf", "dev.yaml:3 (wave_bake): a number with an end is expected"),
        ("waves:", "ledger: https://acme.blob.core.windows.net/Ledger\nwaves:", "dev.yaml:2 (ledger): 'https://acme.blob.core.windows.net/Ledger' is no container of blobs"),
        ("waves:", "ledger: https://acme.blob.core.windows.net\nwaves:", "dev.yaml:2 (ledger): 'https://acme.blob.core.windows.net' is no container of blobs"),
        ("waves:", "ledger: http://acme.blob.core.windows.net/ledger\nwaves:", "dev.yaml:2 (ledger)"),
        ("waves:", "ledger: https://acme.blob.core.windows.net/ledger/a/b\nwaves:", "dev.yaml:2 (ledger)"),
        ("waves:", "ledger: https://acme.blob.core.windows.net/ledger?sv=1&sig=a\nwaves:", "dev.yaml:2 (ledger)"),
        ("waves: [[eastus]]", "waves: !!python/object:os.system [[eastus]]", "dev.yaml:2 (waves"),
    ],
)  # fmt: skip
def test_a_mistake_is_named_with_its_file_line_and_key(root: Path, old: str, new: str, said: str) -> None:
    assert said in wrong(root, OWN.replace(old, new, 1))


@pytest.mark.parametrize(
    ("own", "said"),
    [
        ("gates: {alpha: 1.5}", "dev.yaml:12 (gates.alpha): less than 1.0 is expected, not 1.5"),
        ("gates: {on_inconclusive: maybe}", "dev.yaml:12 (gates.on_inconclusive)"),
        ("gates:\n  erors: {}", "dev.yaml:13 (gates.erors): unknown key 'erors'; did you mean 'errors'?"),
        ("gates: {latency: {threshold: soon, share: 0.05, margin: 0, harm: 1}}", "(gates.latency.threshold): 'soon' is not a duration"),
        ("gates: {deadline: 30s}", "base.yaml:3 (canary.steps[0].bake): is longer than gates.deadline"),
        ("canary: {steps: [{weight: 50, bake: 1s}, {weight: 20, bake: 1s}]}", "dev.yaml:12 (canary.steps[1].weight): steps grow: more than 50"),
        ("canary: {steps: [{wait: 50}]}", "unknown key 'wait'"),
        ("load: {rate: 0}", "dev.yaml:12 (load.rate)"),
    ],
)  # fmt: skip
def test_a_mistake_is_placed_in_the_file_whose_key_won(root: Path, own: str, said: str) -> None:
    assert said in wrong(root, OWN + own + "\n")


def test_every_mistake_is_said_at_once(root: Path) -> None:
    said = wrong(root, OWN + "gates: {alpha: 2}\nlaod: {rate: 1}\n")

    assert "(gates.alpha)" in said and "unknown key 'laod' (did you mean 'load'?)" in said


def test_a_latency_threshold_is_a_time_or_the_baseline(root: Path) -> None:
    for written, meant in (("500ms", 0.5), ("baseline", "baseline")):
        latency = f"{{threshold: {written}, share: 0.05, margin: 0, harm: 1}}"
        (root / "here" / "dev.yaml").write_text(OWN + f"gates: {{latency: {latency}}}\n")
        gate = read_environment("here", "dev", root).gates.latency
        assert gate is not None and gate.threshold == meant


def test_the_baseline_is_no_objective(root: Path) -> None:
    latency = "{threshold: baseline, against: objective, share: 0.05, margin: 0, harm: 1}"

    assert "needs a time as threshold" in wrong(root, OWN + f"gates: {{latency: {latency}}}\n")


def test_what_is_not_there_is_answered_with_what_is(root: Path) -> None:
    with pytest.raises(BadInput, match="unknown estate 'azur'") as estate:
        names("azur", root)
    with pytest.raises(BadInput, match="unknown environment 'deev'") as environment:
        read_environment("here", "deev", root)
    with pytest.raises(BadInput, match="unknown target dev/eastsu") as target:
        read_environment("here", "dev", root).target("eastsu")

    assert "here" in estate.value.hint
    assert "dev" in environment.value.hint
    assert "eastus" in target.value.hint


def test_a_file_that_is_no_text_or_too_large_is_refused(root: Path) -> None:
    file = root / "here" / "dev.yaml"
    file.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(BadInput, match="not UTF-8"):
        read_environment("here", "dev", root)
    file.write_text("#" * 2_000_000)
    with pytest.raises(BadInput, match="2,000,000 bytes"):
        read_environment("here", "dev", root)


def test_environments_come_in_promotion_order_up_to_the_one_asked_for(root: Path) -> None:
    (root / "here" / "aprod.yaml").write_text("after: staging\n" + OWN)
    (root / "here" / "staging.yaml").write_text("after: dev\n" + OWN)

    def order(through: str | None) -> list[str]:
        return [environment.name for environment in read_environments("here", through, root)]

    assert order(None) == ["dev", "staging", "aprod"]
    assert order("staging") == ["dev", "staging"]
    (root / "here" / "dev.yaml").write_text("after: aprod\n" + OWN)
    with pytest.raises(BadInput, match=r"dev.yaml:1 \(after\): environments of here wait for each other"):
        order(None)


@pytest.mark.parametrize("registry", ["[::1]:5000", "registry.example:443", "10.0.0.1", "[fd00::1]"])
def test_a_registry_is_a_host_by_name_or_by_either_kind_of_address(root: Path, registry: str) -> None:
    own = (root / "here" / "dev.yaml").read_text()
    (root / "here" / "dev.yaml").write_text(
        own.replace("127.0.0.1:5501", f'"{registry}"').replace("http://127.0.0.1:8480", "http://[::1]:8480/x")
    )

    target = read_environment("here", "dev", root).target("eastus")

    assert (target.registry, target.gateway) == (registry, "http://[::1]:8480/x")


@given(st.text(max_size=200))
def test_any_text_is_an_environment_or_bad_input(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    root = tmp_path_factory.getbasetemp() / "any"
    (root / "here").mkdir(parents=True, exist_ok=True)
    (root / "here" / "dev.yaml").write_bytes(text.encode("utf-8", "surrogatepass"))

    with pytest.raises(BadInput):
        read_environment("here", "dev", root)


def test_the_environments_of_this_checkout_are_right() -> None:
    local = read_environments("local")

    assert [environment.name for environment in local] == ["dev", "staging", "prod"]
    namespaces = [target.namespace for environment in local for target in environment.targets.values()]
    assert len(set(namespaces)) == len(namespaces)
    assert all(environment.load for environment in local)


@pytest.mark.parametrize(
    ("signer", "said"),
    [
        ("{}", "a signer is a `key`, or an `identity` with its `issuer`"),
        ("{identity: a}", "a signer is a `key`, or an `identity` with its `issuer`"),
        ("{key: a, issuer: b}", "a signer is a `key`, or an `identity` with its `issuer`"),
        ("{key: a, identity: a, issuer: b}", "a signer is a `key`, or an `identity` with its `issuer`"),
        ("{identity: a, issuer: b}", "and a `trusted_root` to verify by: cosign trusted-root create"),
        ("{key: a, trusted_root: b}", "a signer is a `key`, or an `identity` with its `issuer`"),
        ("{identity: 'https://github.com/*', issuer: b, trusted_root: c}", "could be anybody's"),
        ("{identity: 'https://github.com/owner*', issuer: b, trusted_root: c}", "could be anybody's"),
        ("{identity: '*@example.com', issuer: b, trusted_root: c}", "could be anybody's"),
        ("{kei: a}", "unknown key 'kei'"),
    ],
)
def test_who_may_sign_is_a_key_or_an_identity(root: Path, signer: str, said: str) -> None:
    assert said in wrong(root, f"{OWN}trust: {{signers: [{signer}]}}\n")


def test_somebody_has_to_be_trusted(root: Path) -> None:
    assert "dev.yaml:12 (trust.signers)" in wrong(root, OWN + "trust: {signers: []}\n")
    assert "dev.yaml:12 (trust.builders)" in wrong(root, OWN + "trust: {builders: []}\n")


def test_a_signer_is_named_by_its_key_or_its_identity(root: Path) -> None:
    (root / "here" / "dev.yaml").write_text(
        OWN + "trust: {signers: [{key: k.pub}, {identity: w, issuer: https://i, trusted_root: r.json}]}\n"
    )
    trust = read_environment("here", "dev", root).trust
    # The files are part of the checkout, wherever the command is run.
    checkout = places.checkout()
    assert [str(signer) for signer in trust.signers] == [f"the key {checkout}/k.pub", "w (issuer https://i)"]
    assert trust.signers[1].trusted_root == checkout / "r.json"
    assert not trust.uncommitted_changes


@pytest.mark.parametrize(
    ("pattern", "identity", "is_called"),
    [
        ("https://h/o/r/w.yml@refs/heads/main", "https://h/o/r/w.yml@refs/heads/main", True),
        ("https://h/o/r/w.yml@refs/heads/main", "https://h/o/r/w.yml@refs/heads/main2", False),
        ("https://h/o/r/w.yml@refs/heads/main", "https://h/o/r/w-yml@refs/heads/main", False),
        ("https://h/o/r/w.yml@refs/tags/v*", "https://h/o/r/w.yml@refs/tags/v1.2", True),
        ("https://h/o/r/w.yml@refs/tags/v*", "https://h/o/r/w.yml@refs/heads/v1.2", False),
        ("https://h/o/r/w.yml@refs/tags/v*", "https://h/o/r/w.yml@refs/tags/v1\nhttps://h/x", False),
        ("https://h/o/*@refs/heads/main", "https://h/o/r/.github/workflows/w.yml@refs/heads/main", True),
        ("https://h/o/*@refs/heads/main", "https://h/p/r/.github/workflows/w.yml@refs/heads/main", False),
        ("https://h/o/*", "https://evil/?https://h/o/r", False),
    ],
)
def test_an_identity_is_meant_exactly_but_for_its_stars(pattern: str, identity: str, is_called: bool) -> None:
    signer = TrustedSigner(identity=pattern, issuer="https://i", trusted_root=Path("r.json"))
    assert signer.is_called(identity, "https://i") is is_called
    assert not signer.is_called(identity, "https://j")


HOME = "registries: {home: 127.0.0.1:5502, deadline: 5s}\n"


def test_the_estate_says_which_registry_is_home(root: Path) -> None:
    (root / "here" / "dev.yaml").write_text(OWN + HOME)
    west = OWN.replace("eastus", "westeurope").replace("5501", "5502")
    (root / "here" / "prod.yaml").write_text(west + HOME)

    found = geography(read_environments("here", root=root))

    assert (found.home, found.deadline, found.replication) == ("127.0.0.1:5502", 5.0, None)
    assert list(found.regions.items()) == [("westeurope", "127.0.0.1:5502"), ("eastus", "127.0.0.1:5501")]


@pytest.mark.parametrize(
    ("dev", "prod", "said"),
    [
        ("", "", "the estate here does not say which registry is its home"),
        (HOME, "", "says in more than one way which registry is its home"),
        (HOME, HOME.replace("5502", "5503"), "says in more than one way"),
    ],
)
def test_an_estate_has_one_home(root: Path, dev: str, prod: str, said: str) -> None:
    (root / "here" / "dev.yaml").write_text(OWN + dev)
    (root / "here" / "prod.yaml").write_text(OWN + prod)
    with pytest.raises(BadInput, match=said):
        geography(read_environments("here", root=root))


def test_a_region_has_one_endpoint(root: Path) -> None:
    (root / "here" / "dev.yaml").write_text(OWN + HOME)
    (root / "here" / "prod.yaml").write_text(OWN.replace("5501", "5509") + HOME)
    with pytest.raises(BadInput, match=r"prod/eastus pulls from 127\.0\.0\.1:5509, other targets in eastus"):
        geography(read_environments("here", root=root))


def test_the_embedded_platforms_estate_publishes_to_the_registry_that_is_replicated() -> None:
    found = geography(read_environments("local"))
    place = Instance(number=0, folder=Path("/nowhere"))
    assert found.home == f"127.0.0.1:{place.registry(REGIONS[0])}"
    assert found.regions == {region: f"127.0.0.1:{place.registry(region)}" for region in REGIONS}
    assert found.replication == f"http://127.0.0.1:{place.replicator}"


POLICY = """\
hours: Mon-Thu 09:00-16:00 Europe/Amsterdam
freezes:
  - {when: 2026-12-18 to 2027-01-04 Europe/Amsterdam, why: the holidays}
  - {when: Wed 12:00-13:00 Asia/Tokyo, why: a demonstration}
approvals: {count: 2, by: [anna, Bert, cem]}
notify: ["env:TEAMS_URL", {to: "file:/run/secrets/mail-url", when: [held, failed]}]
"""


def test_when_a_release_may_go_in_and_who_is_told(root: Path) -> None:
    (root / "here" / "dev.yaml").write_text(OWN)
    (root / "here" / "prod.yaml").write_text(f"{OWN}after: dev\nsoak: 90m\n{POLICY}")

    prod = read_environment("here", "prod", root)

    assert [str(one) for one in prod.hours] == ["Mon-Thu 09:00-16:00 Europe/Amsterdam"]
    assert [(str(one.when), one.why) for one in prod.freezes][1] == (
        "Wed 12:00-13:00 Asia/Tokyo",
        "a demonstration",
    )
    assert (prod.soak.seconds, prod.soak.environment) == (5400, None) if prod.soak else None
    assert prod.approvals is not None and prod.approvals.may("bert") and not prod.approvals.may("dora")
    assert [(one.to, len(one.when)) for one in prod.notify] == [
        ("env:TEAMS_URL", 8),
        ("file:/run/secrets/mail-url", 2),
    ]
    assert read_environment("here", "dev", root).freezes == ()


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("16:00 Europe/Amsterdam", "16:00", "prod.yaml:14 (hours): 'Mon-Thu 09:00-16:00' has no time zone"),
        (
            "09:00-16:00",
            "16:00-09:00",
            "prod.yaml:14 (hours): 'Mon-Thu 16:00-09:00 Europe/Amsterdam' ends before it begins",
        ),
        (
            "Mon-Thu 09:00-16:00 Europe/Amsterdam",
            "2026-12-01 to 2026-12-05 UTC",
            "(hours): '2026-12-01 to 2026-12-05 UTC' does not come again",
        ),
        ("hours: Mon-Thu 09:00-16:00 Europe/Amsterdam", "hours: []", "prod.yaml:14 (hours): at least 1"),
        (
            "Asia/Tokyo",
            "Asia/Tokio",
            "prod.yaml:17 (freezes[1].when): 'Asia/Tokio' is no time zone; did you mean 'Asia/Tokyo'?",
        ),
        (
            "2026-12-18 to 2027-01-04",
            "2026-12-18 to 2026-01-04",
            "prod.yaml:16 (freezes[0].when): '2026-12-18 to 2026-01-04 Europe/Amsterdam' ends before it begins",
        ),
        (
            "when: 2026-12-18 to 2027-01-04 Europe/Amsterdam",
            "when: 2026-12-18",
            "prod.yaml:16 (freezes[0].when): 2026-12-18 has no time zone",
        ),
        ("2026-12-18 to 2027-01-04", "from 2026-12-18", "never ends"),
        (
            "Wed 12:00-13:00",
            "Mon-Thu",
            "prod.yaml:15 (freezes): with these freezes and these hours there is no time",
        ),
        (", why: the holidays", "", "prod.yaml:16 (freezes[0]): the key 'why' is missing"),
        ("soak: 90m", "soak: 90", "prod.yaml:13 (soak): a duration needs a unit"),
        ("soak: 90m", "soak: 0s", "prod.yaml:13 (soak): a release soaks for longer than that"),
        ("soak: 90m", "soak: 2h in stagin", "prod.yaml:13 (soak): no environment 'stagin'"),
        (
            "soak: 90m",
            "soak: 2h in prod",
            "prod.yaml:13 (soak): a release soaks in an environment before this one",
        ),
        ("after: dev\nsoak: 90m", "soak: 90m", "prod.yaml:12 (soak): no environment comes before prod"),
        ("[anna, Bert, cem]", "[]", "prod.yaml:18 (approvals.by): nobody is named who may approve"),
        ("[anna, Bert, cem]", "anna", "(approvals.by): a list of names is expected, not 'anna'; by: [anna]"),
        ("[anna, Bert, cem]", "[anna, ANNA]", "(approvals.by): 'anna' is named twice"),
        (
            "[anna, Bert, cem]",
            "[anna, bert@example.com]",
            "(approvals.by): 'bert@example.com' is not the name of somebody",
        ),
        (", by: [anna, Bert, cem]", "", "prod.yaml:18 (approvals): the key 'by' is missing"),
        ("count: 2", "count: 4", "4 approvals are asked for, and there are 3 names"),
        ("count: 2", "count: 0", "(approvals.count): at least 1 is expected"),
        (
            "env:TEAMS_URL",
            "https://hooks.slack.com/services/T0/B0/x7GqJ",
            "prod.yaml:19 (notify[0]): where a channel is, is a secret",
        ),
        ("file:/run/secrets/mail-url", "env:TEAMS_URL", "prod.yaml:19 (notify): a channel is named twice"),
        ("held, failed", "helt, failed", "did you mean 'held'?"),
    ],
)
def test_a_mistake_in_the_policy_is_one_line_with_its_place(
    root: Path, old: str, new: str, said: str
) -> None:
    whole = f"{OWN}after: dev\nsoak: 90m\n{POLICY}"
    assert whole.count(old) == 1
    message = wrong(root, whole.replace(old, new), "prod")
    assert said in message
    assert "x7GqJ" not in message and "\n" not in message


VALUES = """\
secrets:
  - {name: voice-redis, source: va-system/redis, keys: {A: b}}
  - {name: voice-livekit, source: va-system/livekit, keys: {A: b}}
values:
  redis: {url: "redis://voice@redis:6379", cluster: false}
  api:
    replicas: 2
    resources: {requests: {cpu: 100m, memory: 128Mi}, limits: {memory: 384Mi}}
    env: {RATE_LIMIT_PER_MINUTE: "60"}
  traffic: {aliases: [voice.example.com]}
canary: {values: {agent: {replicas: 1}}}
"""


def test_values_that_the_chart_takes(root: Path) -> None:
    (root / "here" / "dev.yaml").write_text(OWN + VALUES)
    assert read_environment("here", "dev", root).values["traffic"] == {"aliases": ["voice.example.com"]}


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (
            "  redis: {",
            "  rediss: {",
            "dev.yaml:16 (values.rediss): unknown key 'rediss'; did you mean 'redis'?",
        ),
        (
            "replicas: 2",
            "replica: 2",
            "dev.yaml:18 (values.api.replica): unknown key 'replica'; did you mean 'replicas'?",
        ),
        (
            "replicas: 2",
            'replicas: "2"',
            "dev.yaml:18 (values.api.replicas): a whole number is expected, not '2'",
        ),
        (
            "cluster: false",
            "cluster: 0",
            "dev.yaml:16 (values.redis.cluster): true or false is expected, not 0",
        ),
        (
            "redis://voice@redis:6379",
            "http://redis",
            "dev.yaml:16 (values.redis.url): this is not how it is written",
        ),
        ("cpu: 100m", "cpu: 100 m", "dev.yaml:19 (values.api.resources.requests.cpu)"),
        (
            "[voice.example.com]",
            "voice.example.com",
            "dev.yaml:21 (values.traffic.aliases): a list is expected",
        ),
        (
            "RATE_LIMIT_PER_MINUTE",
            "REDIS_URL",
            "dev.yaml:20 (values.api.env): 'REDIS_URL' is set by the chart",
        ),
        (
            "agent: {replicas: 1}",
            "agents: {replicas: 1}",
            "dev.yaml:22 (canary.values.agents): unknown key 'agents'",
        ),
        (
            "agent: {replicas: 1}",
            "agent: {replicas: -1}",
            "dev.yaml:22 (canary.values.agent.replicas): at least 0 is expected",
        ),
        (
            "name: voice-livekit",
            "name: voice-redis",
            "dev.yaml:14 (secrets[1].name): the secret 'voice-redis' is given twice",
        ),
    ],
)
def test_values_that_the_chart_does_not_take(root: Path, old: str, new: str, said: str) -> None:
    assert VALUES.count(old) == 1
    message = wrong(root, OWN + VALUES.replace(old, new))
    assert said in message and "\n" not in message


def test_two_targets_at_one_place(root: Path) -> None:
    other = OWN[OWN.index("  eastus:") :].replace("eastus", "westus").replace("8480", "8481")
    message = wrong(root, OWN.replace("[[eastus]]", "[[eastus], [westus]]") + other)
    assert "(targets.westus.namespace): eastus is installed there already: va-dev" in message


def test_a_release_soaks_on_its_way(root: Path) -> None:
    (root / "here" / "prod.yaml").write_text(f"{OWN}after: dev\nsoak: 2h in other\n")
    (root / "here" / "other.yaml").write_text(OWN)
    with pytest.raises(BadInput, match=r"prod.yaml:13 \(soak\): other does not come before prod"):
        read_environments("here", "prod", root)
