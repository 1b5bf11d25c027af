"""What a release proves, and where it is: signatures, attestations, copies in the regions.

    signing.py  keyless.py     who signed: a key of ours, one in Key Vault, or an identity (Sigstore)
    handover.py                what the half that builds leaves to the half that signs: a folder
    attestations.py            the documents attached to an image: SBOM, scan, provenance, tests
    verification.py            what they must say before a release may run; comparison.py says what changed
    availability.py            which region has what; replication.py brings it there
    retention.py               what may be forgotten
    admission.py               the cluster's own check of images: a webhook, run as a process of its own

It may call scan, the registries and what is below; the flows are in `pipelines/`.
"""
