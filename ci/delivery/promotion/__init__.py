"""How a release is promoted to a target: what is, what shall be, the one next thing to do, and doing it.

    facts.py         what a target is now, asked from its cluster, and what differs from what Helm installed
    plan.py          what a promotion would do, and whether that moved; rendered.py  in manifests
    obstacles.py     what stands in its way on a target
    states.py        the one next thing to do; run.py  does it; everywhere.py  on all targets of a wave
    waves.py         the time between waves; watch.py  looks meanwhile; measurements.py  keeps looks of a bake
    upright.py       whether pods stay up; users.py  whether users are sent there
    replay.py        what other gates would have said
    presence.py      who is at work on one
    show.py          what of it a person sees

State is in the world and in the ledger, never in a local variable.
"""
