"""How a release gets onto a target and is watched there.

    site.py        a target at work: what pipelines do to it, in their words
    helm.py  cluster.py  traffic.py  metrics.py    the rooms for Helm, Kubernetes, routes and Prometheus
    kubeconfig.py  how a cluster is reached and signed in to
    revisions.py   what Helm keeps of its releases, read without it
    promotion/     what a target is, and the one next thing to do there
    tracks.py      the names of stable and canary
    gates/         how a canary is judged: pure functions over counts; findings.py what they say, as data
    asking.py      the gates of an environment; queries.py what its own count; bake.py looks and waits
    results.py     what a promotion says of itself; ledger/ keeps what was done
    refusals.py    why a release may not go somewhere now; reviews.py asks GitHub who approved the run
    report/        one promotion on a page, for people who were not there
    news.py        what people are told of a promotion; notify.py tells them
    origins.py     which registry each container's image came from
    chart.py  manifests.py    the chart as an artifact, what it renders; masked.py what of it may be shown
    load.py        traffic of our own, for drills and the demo

A new source of metrics goes beside metrics.py; a new kind of evidence into gates/ and findings.py. It may
call the registries and what is below, not the platform or the architecture.
"""
