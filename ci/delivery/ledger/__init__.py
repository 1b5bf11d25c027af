"""The ledger: who promoted what where, what was intended, ordered and done, with its numbers and reasons.

    async with open_ledger(environment) as ledger:
        await ledger.append(Draft(promotion=…, kind=Kind.INTENT, action=Action.MOVE, weight=25))

Append-only, one an environment: the memory of a promotion that was interrupted, the way for orders from any
terminal, and the answer to "why is this not in prod". The world comes first: what runs is asked from the
cluster, the ledger says what was decided.

    entry.py       what an entry says;   who.py who says it
    chain.py       the lines, their hashes, and how damage is found
    ledger.py      append, read, verify;   opening.py where each ledger is
    sqlite.py      in a file of this machine, for several processes;   blob.py in Azure, for several machines
    taken_over.py  the JSON lines of before, and their words
    history.py     promotions and DORA's four figures;   show.py for people;   export.py for other programs
"""

from ci.delivery.ledger.chain import Damaged, Problem
from ci.delivery.ledger.entry import Action, Draft, Entry, Kind, promotion_id
from ci.delivery.ledger.history import (
    Figures,
    Promotion,
    Went,
    committed,
    figures,
    left_by,
    meant,
    promotions,
)
from ci.delivery.ledger.ledger import Conflict, Ledger
from ci.delivery.ledger.opening import (
    Verified,
    alone,
    folder,
    inspect_all,
    open_ledger,
    open_named,
    order,
    read_all,
    verify_all,
    worked_on_by,
)
from ci.delivery.ledger.taken_over import Event
from ci.delivery.ledger.who import person, whoami

__all__ = [
    "Action",
    "Conflict",
    "Damaged",
    "Draft",
    "Entry",
    "Event",
    "Figures",
    "Kind",
    "Ledger",
    "Problem",
    "Promotion",
    "Verified",
    "Went",
    "alone",
    "committed",
    "figures",
    "folder",
    "inspect_all",
    "left_by",
    "meant",
    "open_ledger",
    "open_named",
    "order",
    "person",
    "promotion_id",
    "promotions",
    "read_all",
    "verify_all",
    "whoami",
    "worked_on_by",
]
