-- Who had a session when. `ended_at` stays empty where nobody ended it: then it was over at `expires_at`.
CREATE TABLE sessions (
    session_id     text PRIMARY KEY,
    room           text NOT NULL,
    participant_id text NOT NULL,
    started_at     timestamptz NOT NULL,
    expires_at     timestamptz NOT NULL,
    ended_at       timestamptz,
    track          text NOT NULL,
    release        text NOT NULL
);
CREATE INDEX sessions_participant ON sessions (participant_id);
CREATE INDEX sessions_started ON sessions (started_at);

-- Whose data was erased when, for a day and by digest: what another replica had still to write is not written.
CREATE TABLE erased (
    participant bytea PRIMARY KEY,
    erased_at   timestamptz NOT NULL
);
