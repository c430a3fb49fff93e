-- Our own tables as they were before init-db wrote their version down.

-- What was handed to the platform, or may have been: one row a batch, one with first_id = 0 for the job group.
-- A row is written before its request leaves and accepted_at after its answer, so that a lost answer is known.
CREATE TABLE IF NOT EXISTS call_dispatches (
    id           BIGINT      NOT NULL AUTO_INCREMENT PRIMARY KEY,
    task_id      BIGINT      NOT NULL,
    first_id     BIGINT      NOT NULL,
    last_id      BIGINT      NOT NULL,
    attempted_at DATETIME(6) NOT NULL,
    accepted_at  DATETIME(6) NULL,
    KEY idx_task (task_id, last_id)
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4;

-- Work that could not be done yet and when to try again: a transcript, a recording, an analysis that is not there.
CREATE TABLE IF NOT EXISTS call_retries (
    list_id    BIGINT      NOT NULL,
    step       VARCHAR(16) NOT NULL,
    task_id    BIGINT      NOT NULL,
    tries      INT         NOT NULL,
    since      DATETIME(6) NOT NULL,
    retry_at   DATETIME(6) NOT NULL,
    error_code VARCHAR(80) NOT NULL DEFAULT '',
    PRIMARY KEY (list_id, step),
    KEY idx_task (task_id, step)
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4;

-- The ledger of follow-ups: one row for each that was ever made, so that none is made twice, nor again after a
-- person deleted it.
CREATE TABLE IF NOT EXISTS call_follow_ups (
    list_id       BIGINT      NOT NULL PRIMARY KEY,
    task_id       BIGINT      NOT NULL,
    follow_id     BIGINT      NOT NULL,
    is_interested INT         NOT NULL,
    outcome       VARCHAR(16) NOT NULL,
    created_at    DATETIME(6) NOT NULL,
    KEY idx_task (task_id, outcome),
    KEY idx_follow (follow_id)
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4;

-- Every judgement of a call: analysed by the model, default (nothing to analyse), failed, or over_ceiling.
CREATE TABLE IF NOT EXISTS call_analyses (
    id               BIGINT      NOT NULL AUTO_INCREMENT PRIMARY KEY,
    list_id          BIGINT      NOT NULL,
    task_id          BIGINT      NOT NULL,
    call_job_id      VARCHAR(64) NOT NULL,
    request_id       VARCHAR(64) NOT NULL DEFAULT '',
    outcome          VARCHAR(16) NOT NULL,
    is_interested    INT         NOT NULL,
    leads_remark     TEXT        NOT NULL,
    next_follow_time DATETIME    NULL,
    evidence         TEXT        NOT NULL,
    model            VARCHAR(80) NOT NULL DEFAULT '',
    prompt_version   VARCHAR(32) NOT NULL DEFAULT '',
    transcript_hash  CHAR(64)    NOT NULL DEFAULT '',
    input_tokens     INT         NOT NULL DEFAULT 0,
    output_tokens    INT         NOT NULL DEFAULT 0,
    error_code       VARCHAR(80) NOT NULL DEFAULT '',
    created_at       DATETIME(6) NOT NULL,
    KEY idx_list (list_id, id),
    KEY idx_task (task_id, request_id),
    KEY idx_job (call_job_id)
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4;

-- What a task's judgements may cost, input and output tokens together; a task without a row has no ceiling.
CREATE TABLE IF NOT EXISTS call_token_ceilings (
    task_id       BIGINT NOT NULL PRIMARY KEY,
    token_ceiling BIGINT NOT NULL
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4;

-- The shared time line of each rate limit: the time, in microseconds since 1970, up to which calls are booked.
CREATE TABLE IF NOT EXISTS call_rate_limits (
    name    VARCHAR(80) NOT NULL PRIMARY KEY,
    next_at BIGINT      NOT NULL
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4;
