"""A step of a recovery, and the steps of the drill.

The drill goes through `DRILL` in this order and the runbooks print it: neither changes without the other.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["DRILL", "Scenario", "Step"]


@dataclass(frozen=True, kw_only=True)
class Step:
    """One step: what it is called, why it is there, the lines that do it, the lines that show it is done.

    `minutes` is what to expect, as estimated and not measured; 0 where nothing has to be waited for. An
    `optional` step is not on the way to working again.
    """

    key: str
    title: str
    why: str
    commands: tuple[str, ...] = ()
    proof: tuple[str, ...] = ()
    minutes: int = 0
    optional: bool = False
    no_way_back: bool = False


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """A disaster, by what one sees of it, and the steps out of it in order."""

    name: str
    title: str
    sign: str
    loses: str
    steps: tuple[Step, ...]

    @property
    def minutes(self) -> int:
        """Until it works again, as estimated."""
        return sum(step.minutes for step in self.steps if not step.optional)


DRILL = (
    Step(
        key="seed",
        title="Seed empty stores",
        why="Session history in PostgreSQL, session state in Redis, recordings in all four containers. "
        "What was written is remembered outside of the stores.",
    ),
    Step(
        key="backup",
        title="Back up",
        why="One set: PostgreSQL's base backup and dump, Redis' RDB file, snapshots of the blobs in the "
        "second account. From here on only the write-ahead log is archived.",
        commands=("va dr backup",),
        proof=("va dr list",),
    ),
    Step(
        key="verify",
        title="Verify the set",
        why="A backup that was never read is none: digests, pg_verifybackup, pg_restore --list, "
        "redis-check-rdb, the MD5 of every copy.",
        commands=("va dr verify latest",),
    ),
    Step(
        key="write",
        title="Go on writing",
        why="What is written after the backup is what a disaster can take. Each write's time is noted.",
    ),
    Step(
        key="lose",
        title="Lose the region",
        why="PostgreSQL, Redis and the first storage account are killed and their data destroyed. The "
        "archived log and the second account are elsewhere and stay.",
    ),
    Step(
        key="restore",
        title="Restore into empty stores",
        why="New, empty stores in the place of the lost ones; PostgreSQL up to the last moment archived.",
        commands=("va dr restore latest",),
    ),
    Step(
        key="compare",
        title="Compare and measure",
        why="Row counts and checksums against what was seeded, each later write against what was noted. "
        "RTO is the time from the loss until here. RPO is how old the newest write that came back was then.",
    ),
)
"""What `va dr drill` does."""
