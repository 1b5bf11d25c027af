"""The environments that a release moves through, read from `environments/<estate>/<name>.yaml`.

An estate is a set of environments on one kind of infrastructure: `local` is the embedded platform. Files are
overlays (`extends: ../base.yaml`, see ci.yamlfile): mappings are laid over each other key by key, a list
replaces a list. A wrong file is one BadInput that names file, line and key of every mistake, raised before
anything is touched.

    model.py    what an environment is;   gates.py what decides a canary step
    policy.py   when a release may go in, who says yes, who is told
    written.py  values as people write them;   reading.py the files
    chart_values.py    the values of the chart, by type: those of an environment are held to them
"""

from ci.environments.gates import (
    PLACEHOLDERS,
    AnyGate,
    ErrorGate,
    ExposureGate,
    Gates,
    LatencyGate,
    OnInconclusive,
    RestartGate,
    SaturationGate,
    bare,
    filled,
    queries,
)
from ci.environments.model import (
    Canary,
    CanaryStep,
    Environment,
    Geography,
    Load,
    OnHarm,
    Registries,
    SecretCopy,
    Target,
    Traffic,
    Trust,
    TrustedSigner,
    geography,
)
from ci.environments.policy import Approvals, Channel, Freeze, News, Soak
from ci.environments.reading import estates, names, picked, read_environment, read_environments
from ci.environments.written import parse_seconds

__all__ = [
    "PLACEHOLDERS",
    "AnyGate",
    "Approvals",
    "Canary",
    "CanaryStep",
    "Channel",
    "Environment",
    "ErrorGate",
    "ExposureGate",
    "Freeze",
    "Gates",
    "Geography",
    "LatencyGate",
    "Load",
    "News",
    "OnHarm",
    "OnInconclusive",
    "Registries",
    "RestartGate",
    "SaturationGate",
    "SecretCopy",
    "Soak",
    "Target",
    "Traffic",
    "Trust",
    "TrustedSigner",
    "bare",
    "estates",
    "filled",
    "geography",
    "names",
    "parse_seconds",
    "picked",
    "queries",
    "read_environment",
    "read_environments",
]
