-- The queue. Foreign producers run these defaults, CHECKs and triggers with
-- their own SQLite: nothing here needs more than 3.37.

PRAGMA application_id = 0x7265656c; -- "reel"

-- The checks are written for speed, for every row of a large file passes them: GLOB finds the
-- first character that is no blank where trim() would build a text, and what only holds for
-- later states asks for 'pending' first.
CREATE TABLE jobs (
    -- The largest whole number that every language reads exactly; beyond it no id would be left.
    id          INTEGER PRIMARY KEY AUTOINCREMENT
        CONSTRAINT "id is given by the database" CHECK (id BETWEEN 1 AND 9007199254740991),

    -- What a producer may set.
    key         TEXT
        CONSTRAINT "key must not be blank and must be at most 200 bytes"
        CHECK (key IS NULL OR (key GLOB '*[^' || char(32, 9, 10, 13) || ']*' AND instr(key, char(0)) = 0
            AND length(CAST(key AS BLOB)) <= 200)),
    batch       TEXT NOT NULL DEFAULT 'default'
        CONSTRAINT "batch must not be blank and must be at most 200 bytes"
        CHECK (batch GLOB '*[^' || char(32, 9, 10, 13) || ']*' AND instr(batch, char(0)) = 0
            AND length(CAST(batch AS BLOB)) <= 200),
    prompt      TEXT NOT NULL
        CONSTRAINT "prompt must not be blank and must be at most 100000 bytes"
        CHECK (prompt GLOB '*[^' || char(32, 9, 10, 13) || ']*' AND length(CAST(prompt AS BLOB)) <= 100000),
    image_url   TEXT NOT NULL
        CONSTRAINT "image_url must be an http:// or https:// URL without spaces, at most 8192 bytes"
        CHECK ((image_url GLOB '[hH][tT][tT][pP]://[^/?#]*' OR image_url GLOB '[hH][tT][tT][pP][sS]://[^/?#]*')
            AND instr(image_url, char(32)) = 0 AND instr(image_url, char(9)) = 0
            AND instr(image_url, char(10)) = 0 AND instr(image_url, char(13)) = 0
            AND length(CAST(image_url AS BLOB)) <= 8192),
    duration    INTEGER NOT NULL DEFAULT 6
        CONSTRAINT "duration must be a whole number of seconds from 1 to 15"
        CHECK (duration BETWEEN 1 AND 15),
    size        TEXT NOT NULL DEFAULT '720p'
        CONSTRAINT "size must be 480p, 720p or 1080p"
        CHECK (size = '720p' OR size = '480p' OR size = '1080p'),
    priority    INTEGER NOT NULL DEFAULT 0,
    not_before  INTEGER
        CONSTRAINT "not_before must be a time in Unix milliseconds, from 1970 to 9999"
        CHECK (not_before BETWEEN 0 AND 253402300799999),
    metadata    TEXT
        CONSTRAINT "metadata must be a JSON object of at most 65536 bytes"
        CHECK (metadata IS NULL OR (json_valid(metadata) AND json_type(metadata) = 'object'
            AND instr(metadata, char(0)) = 0 AND length(CAST(metadata AS BLOB)) <= 65536)),

    -- What reelq keeps, for everyone to read.
    state         TEXT NOT NULL DEFAULT 'pending'
        CONSTRAINT "state must be one of the documented words"
        CHECK (state = 'pending' OR state IN ('submitting', 'unconfirmed', 'generating', 'downloading',
                         'done', 'failed', 'cancelled')),
    progress      INTEGER NOT NULL DEFAULT 0 CHECK (progress BETWEEN 0 AND 100),
    task_id       TEXT,
    path          TEXT,
    bytes         INTEGER,
    sha256        TEXT,
    note          TEXT,
    error_code    TEXT,
    error_message TEXT,
    created_at    INTEGER NOT NULL
        DEFAULT (CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)),
    submitted_at  INTEGER,
    completed_at  INTEGER,
    finished_at   INTEGER,

    -- What only reelq reads.
    version       INTEGER NOT NULL DEFAULT 0,
    due_at        INTEGER,
    faults        INTEGER NOT NULL DEFAULT 0,
    attempt       INTEGER NOT NULL DEFAULT 0,
    cost          INTEGER NOT NULL DEFAULT 0,
    resent        INTEGER NOT NULL DEFAULT 0 CHECK (resent IN (0, 1)),
    endpoint      TEXT,
    give_up_at    INTEGER,
    video_urls    TEXT,
    target        TEXT,

    -- A producer's row, and nothing more: a trigger that sees every row costs more than this. What it
    -- leaves to `jobs_inserted` below also changes while a job waits.
    CONSTRAINT "a new job must be pending: a producer sets only key, batch, prompt, image_url, duration, size, priority, not_before and metadata"
        CHECK (version > 0 OR (version = 0 AND state = 'pending' AND progress = 0 AND task_id IS NULL AND path IS NULL
            AND bytes IS NULL AND sha256 IS NULL AND error_code IS NULL AND error_message IS NULL
            AND submitted_at IS NULL AND completed_at IS NULL AND finished_at IS NULL AND attempt = 0
            AND cost = 0 AND resent = 0 AND endpoint IS NULL AND give_up_at IS NULL AND video_urls IS NULL
            AND target IS NULL)),

    -- What a state promises.
    CONSTRAINT "a task that runs has its id and its endpoint"
        CHECK (state = 'pending' OR state NOT IN ('generating', 'downloading', 'done')
               OR (task_id IS NOT NULL AND endpoint IS NOT NULL)),
    CONSTRAINT "a submission under way has its time and its endpoint"
        CHECK (state = 'pending' OR state NOT IN ('submitting', 'unconfirmed', 'generating')
               OR (submitted_at IS NOT NULL AND endpoint IS NOT NULL)),
    CONSTRAINT "done means a file"
        CHECK (state <> 'done' OR (path IS NOT NULL AND bytes IS NOT NULL AND sha256 IS NOT NULL)),
    CONSTRAINT "a failure has its reason"
        CHECK (state = 'pending' OR state NOT IN ('failed', 'unconfirmed')
               OR (error_code IS NOT NULL AND error_message IS NOT NULL)),
    CONSTRAINT "an end has its time"
        CHECK (CASE WHEN state = 'pending' THEN finished_at IS NULL
               ELSE (state IN ('done', 'failed', 'cancelled')) = (finished_at IS NOT NULL) END)
) STRICT;

CREATE UNIQUE INDEX jobs_key ON jobs (key); -- whole, so that ON CONFLICT (key) finds it
CREATE UNIQUE INDEX jobs_target ON jobs (target) WHERE target IS NOT NULL;

-- One partial index for each hot state: a claim costs the same with ten rows and with ten million.
CREATE INDEX jobs_ready       ON jobs (priority DESC, id) WHERE state = 'pending' AND due_at IS NULL;
CREATE INDEX jobs_waiting     ON jobs (due_at)            WHERE state = 'pending' AND due_at IS NOT NULL;
CREATE INDEX jobs_submitting  ON jobs (id)                WHERE state = 'submitting';
CREATE INDEX jobs_unconfirmed ON jobs (id)                WHERE state = 'unconfirmed';
CREATE INDEX jobs_generating  ON jobs (endpoint)          WHERE state = 'generating';
CREATE INDEX jobs_downloading ON jobs (due_at)            WHERE state = 'downloading';
-- What was downloaded of a video that is not wanted any more.
CREATE INDEX jobs_leftover    ON jobs (id) WHERE state IN ('failed', 'cancelled') AND target IS NOT NULL;
CREATE INDEX jobs_batch       ON jobs (batch, state);

-- INSERT OR REPLACE and UPDATE OR REPLACE delete the row in their way without a word to any DELETE
-- trigger. So a new row is refused where the ledger knows another one by its id or its key: the refusal
-- takes the deletion back.
CREATE TRIGGER jobs_inserted AFTER INSERT ON jobs
    WHEN NEW.not_before IS NOT NULL OR NEW.version <> 0 OR NEW.due_at IS NOT NULL OR NEW.note IS NOT NULL OR NEW.faults <> 0
      OR EXISTS (SELECT 1 FROM submissions WHERE job_id = NEW.id)
      OR NEW.key IS NOT NULL AND EXISTS (SELECT 1 FROM submissions WHERE key = NEW.key)
BEGIN
    SELECT RAISE(ABORT, 'a new job must be pending: a producer sets only key, batch, prompt, image_url, duration, size, priority, not_before and metadata')
        WHERE NEW.version <> 0 OR NEW.due_at IS NOT NULL OR NEW.note IS NOT NULL OR NEW.faults <> 0;
    SELECT RAISE(ABORT, 'a job that was submitted is never replaced: use ON CONFLICT DO NOTHING')
        WHERE EXISTS (SELECT 1 FROM submissions WHERE job_id = NEW.id)
           OR NEW.key IS NOT NULL AND EXISTS (SELECT 1 FROM submissions WHERE key = NEW.key);
    -- `due_at` of a waiting job is reelq's own column; it follows the producer's.
    UPDATE jobs SET due_at = NEW.not_before WHERE id = NEW.id AND NEW.not_before IS NOT NULL;
END;

CREATE TRIGGER jobs_replaced AFTER UPDATE OF id, key ON jobs
    WHEN (NEW.id IS NOT OLD.id OR NEW.key IS NOT OLD.key)
     AND (EXISTS (SELECT 1 FROM submissions WHERE job_id = NEW.id AND NEW.id IS NOT OLD.id)
          OR NEW.key IS NOT NULL AND EXISTS (SELECT 1 FROM submissions WHERE key = NEW.key AND job_id IS NOT OLD.id))
BEGIN
    SELECT RAISE(ABORT, 'a job that was submitted is never replaced');
END;

CREATE TRIGGER jobs_not_before_changed AFTER UPDATE OF not_before ON jobs
    WHEN NEW.state = 'pending' AND NEW.not_before IS NOT OLD.not_before
BEGIN
    UPDATE jobs SET due_at = NEW.not_before WHERE id = NEW.id;
END;

CREATE TRIGGER jobs_asked_guard BEFORE UPDATE OF id, key, prompt, image_url, duration, size ON jobs
    WHEN OLD.state <> 'pending'
     AND (NEW.id IS NOT OLD.id OR NEW.key IS NOT OLD.key OR NEW.prompt IS NOT OLD.prompt
          OR NEW.image_url IS NOT OLD.image_url OR NEW.duration IS NOT OLD.duration OR NEW.size IS NOT OLD.size)
BEGIN
    SELECT RAISE(ABORT, 'what was asked for can only be changed while the job is pending');
END;

CREATE TRIGGER jobs_state_guard BEFORE UPDATE OF state ON jobs
    WHEN NEW.state <> OLD.state AND NEW.version <> OLD.version + 1
BEGIN
    SELECT RAISE(ABORT, 'only reelq moves a job: use `reelq retry`, `cancel` or `resolve`');
END;

-- The ledger: one row for every POST that was begun.
CREATE TABLE submissions (
    job_id      INTEGER NOT NULL REFERENCES jobs (id) ON UPDATE RESTRICT,
    attempt     INTEGER NOT NULL,
    batch       TEXT NOT NULL,
    cost        INTEGER NOT NULL DEFAULT 0, -- millionths of the account's currency
    endpoint    TEXT NOT NULL,
    started_at  INTEGER NOT NULL,
    finished_at INTEGER,
    outcome     TEXT NOT NULL DEFAULT 'in_flight'
        CHECK (outcome IN ('in_flight', 'accepted', 'rejected', 'not_accepted', 'unknown')),
    http_status INTEGER,
    task_id     TEXT,
    error       TEXT,
    request_id  TEXT,
    answer      TEXT,
    resolution  TEXT CHECK (resolution IN ('adopted', 'resubmitted', 'written_off')),
    key         TEXT, -- the job's: what was paid under it is not paid again
    PRIMARY KEY (job_id, attempt),
    CHECK (outcome <> 'accepted' OR task_id IS NOT NULL),
    CHECK ((outcome = 'in_flight') = (finished_at IS NULL))
) STRICT, WITHOUT ROWID;

CREATE INDEX submissions_day ON submissions (started_at, outcome, cost);
CREATE INDEX submissions_batch ON submissions (batch, outcome, cost);
CREATE INDEX submissions_key ON submissions (key) WHERE key IS NOT NULL;

CREATE TABLE events (
    id     INTEGER PRIMARY KEY AUTOINCREMENT,
    job_id INTEGER NOT NULL REFERENCES jobs (id) ON UPDATE RESTRICT,
    at     INTEGER NOT NULL,
    event  TEXT NOT NULL,
    state  TEXT NOT NULL,
    detail TEXT
) STRICT;

CREATE INDEX events_job ON events (job_id);

-- A cap on what a batch may cost, in millionths.
CREATE TABLE batches (
    name      TEXT PRIMARY KEY,
    max_cost  INTEGER CHECK (max_cost >= 0),
    forgotten INTEGER NOT NULL DEFAULT 0 -- what pruned submissions have cost
) STRICT, WITHOUT ROWID;

-- What holds a stage back, written by the daemon for `reelq status` and for its own next start.
CREATE TABLE gates (
    name    TEXT PRIMARY KEY,
    since   INTEGER NOT NULL,
    until   INTEGER,
    detail  TEXT NOT NULL -- JSON
) STRICT, WITHOUT ROWID;

-- Facts of the whole queue: `queue_id`, `paused`, `pruning`.
CREATE TABLE facts (
    name  TEXT PRIMARY KEY,
    value TEXT NOT NULL,
    at    INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

INSERT INTO facts (name, value, at)
VALUES ('queue_id', lower(hex(randomblob(8))), CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER));

-- Only `reelq prune` forgets.
CREATE TRIGGER submissions_keep BEFORE DELETE ON submissions
    WHEN NOT EXISTS (SELECT 1 FROM facts WHERE name = 'pruning')
BEGIN
    SELECT RAISE(ABORT, 'the ledger keeps every submission; `reelq prune` forgets old ones');
END;

CREATE TRIGGER jobs_keep BEFORE DELETE ON jobs
    WHEN (OLD.attempt > 0 OR OLD.state <> 'pending') AND NOT EXISTS (SELECT 1 FROM facts WHERE name = 'pruning')
BEGIN
    SELECT RAISE(ABORT, 'a job that was submitted is kept; `reelq cancel` withdraws it, `reelq prune` forgets old ones');
END;
