-- What a drill keeps in PostgreSQL: the history of voice sessions, and the drill's own writes.
CREATE TABLE sessions (
    id bigint PRIMARY KEY,
    room text NOT NULL UNIQUE,
    participant text NOT NULL,
    started timestamptz NOT NULL,
    ended timestamptz,
    context jsonb NOT NULL
);

CREATE TABLE turns (
    session bigint NOT NULL REFERENCES sessions (id),
    number int NOT NULL,
    speaker text NOT NULL CHECK (speaker IN ('user', 'agent')),
    said text NOT NULL,
    PRIMARY KEY (session, number)
);

CREATE TABLE writes (
    id bigint PRIMARY KEY,
    content text NOT NULL
);
