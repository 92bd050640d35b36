-- Messages to the webhook, each kept until it is taken. They are written from
-- `events`, from the fact `webhook_cursor` on, in one transaction with it.
CREATE TABLE outbox (
    id         INTEGER PRIMARY KEY AUTOINCREMENT,
    event_id   INTEGER NOT NULL,
    kind       TEXT NOT NULL,
    subject    TEXT NOT NULL, -- the job's id or the batch's name
    batch      TEXT NOT NULL, -- the job's, or itself
    payload    TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    due_at     INTEGER NOT NULL,
    attempts   INTEGER NOT NULL DEFAULT 0,
    error      TEXT,
    UNIQUE (event_id, kind)
) STRICT;

CREATE INDEX outbox_due ON outbox (due_at, id);
CREATE INDEX outbox_untried ON outbox (batch, id) WHERE attempts = 0; -- what a batch's completion waits for

-- Videos that the OpenAI-compatible interface no longer shows. The job, its
-- ledger and its file stay.
CREATE TABLE hidden_videos (
    job_id INTEGER PRIMARY KEY REFERENCES jobs (id) ON DELETE CASCADE,
    at     INTEGER NOT NULL
) STRICT;
