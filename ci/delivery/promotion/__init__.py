"""How a release is promoted to a target: what is, what shall be, the one next thing to do, and doing it.

    facts.py         what a target is now, asked from its cluster, and what differs from what Helm installed
    show.py          what of it a person sees

State is in the world and in the ledger, never in a local variable.
"""
