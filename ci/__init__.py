"""The machinery below `pipelines/`, in floors: an import goes down or stays on its floor.

    commands                      what a person types
    (pipelines/)                  the flows, each reads top to bottom
    recovery   platform           backups and drills; the embedded platform
    azure      supply             Azure Resource Manager; what a release proves
    architecture   scan           the estate as code and its rules; what Trivy finds and the policy allows
    engine   delivery   build     the embedded Dagger session; onto a target; what images are made from
    registry                      OCI registries
    tools  environments  release  the programs we run; where releases go; what a release is
    the ground                    files, processes, errors, reporting: one real thing a module

`nox -s lint` holds it (import-linter, in pyproject.toml). docs/architecture-of-this-code.md has the picture.
"""
