-- Our own tables, beside the CRM's: version 1. Times are UTC. list_id is leads_task_list.id.

-- Which versions of our tables init-db has made here.
CREATE TABLE IF NOT EXISTS call_schema (
    version    INT         NOT NULL PRIMARY KEY,
    applied_at DATETIME(6) NOT NULL
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4;

-- What was handed to the platform, or may have been: one row a batch, one with first_id = 0 for the job group.
-- A row is written before its request leaves and accepted_at after its answer, so that a lost answer is known.
-- What else has the task's id (a CRM whose ids came again) is told apart by the job group, a try to make one by the
-- group's name, a row by lead and call_time of the batch's first one; NULL is not known, and counts as the task's.
-- tries: answers that named fewer jobs than contacts were sent.
CREATE TABLE IF NOT EXISTS call_dispatches (
    id              BIGINT       NOT NULL AUTO_INCREMENT PRIMARY KEY,
    task_id         BIGINT       NOT NULL,
    job_group_id    VARCHAR(191) NULL,
    group_name      VARCHAR(191) NULL,
    first_id        BIGINT       NOT NULL,
    last_id         BIGINT       NOT NULL,
    first_lead      VARCHAR(191) NULL,
    first_call_time DATETIME(6)  NULL,
    tries           INT          NOT NULL DEFAULT 0,
    attempted_at    DATETIME(6)  NOT NULL,
    accepted_at     DATETIME(6)  NULL,
    KEY idx_task (task_id, last_id),
    KEY idx_open (task_id, accepted_at)
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4;

-- Rows that nobody calls, and why (no_number). One counts while its row is Cancelled, has no job and is of this lead.
CREATE TABLE IF NOT EXISTS call_suppressions (
    list_id    BIGINT       NOT NULL PRIMARY KEY,
    task_id    BIGINT       NOT NULL,
    leads_id   VARCHAR(191) NOT NULL,
    reason     VARCHAR(32)  NOT NULL,
    created_at DATETIME(6)  NOT NULL,
    KEY idx_task (task_id, reason)
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4;

-- Who said no: numbers (E.164) that no campaign of the organisation calls while standing is 1; it is NULL when lifted, so
-- that a number stands once. Rows are never deleted but by an erasure. source: call, person or import. evidence: the
-- customer's sentence, or the reason that a person gave. disputed_at: a later judgement of the call found no refusal.
-- withdrawn_at: the calls that waited for the number when it was entered are withdrawn, or over; noticed_at: who sees to
-- that has seen it.
CREATE TABLE IF NOT EXISTS call_opt_outs (
    id              BIGINT       NOT NULL AUTO_INCREMENT PRIMARY KEY,
    organization_id VARCHAR(191) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL,
    phone           VARCHAR(32)  CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    standing        TINYINT      NULL DEFAULT 1,
    source          VARCHAR(16)  NOT NULL,
    task_id         BIGINT       NULL,
    list_id         BIGINT       NULL,
    call_job_id     VARCHAR(191) NULL,
    evidence        TEXT         NOT NULL,
    created_by      VARCHAR(191) NOT NULL DEFAULT '',
    created_at      DATETIME(6)  NOT NULL,
    disputed_at     DATETIME(6)  NULL,
    noticed_at      DATETIME(6)  NULL,
    withdrawn_at    DATETIME(6)  NULL,
    lifted_at       DATETIME(6)  NULL,
    lifted_by       VARCHAR(191) NULL,
    lift_reason     TEXT         NULL,
    UNIQUE KEY uq_standing (organization_id, phone, standing),
    KEY idx_organization (organization_id),
    KEY idx_withdraw (withdrawn_at, organization_id),
    KEY idx_call (list_id)
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4;

-- Who was handed over, by number (E.164): whom the organisation calls, or has called. One row a leads_task_list row,
-- which stays when that row goes; reference_id: what its call carries.
CREATE TABLE IF NOT EXISTS call_contacts (
    list_id         BIGINT       NOT NULL PRIMARY KEY,
    task_id         BIGINT       NOT NULL,
    organization_id VARCHAR(191) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL,
    phone           VARCHAR(32)  CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    claimed_at      DATETIME(6)  NOT NULL,
    reference_id    VARCHAR(191) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NULL,
    KEY idx_phone (organization_id, phone, claimed_at),
    KEY idx_reference (task_id, reference_id)
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4;

-- Calls that waited for somebody who said no. A row is written before the platform is asked to withdraw the call.
-- outcome, once that is known: withdrawn, too_late (it was dialled after that), over (before that), or other (the job
-- calls another number).
CREATE TABLE IF NOT EXISTS call_withdrawals (
    list_id     BIGINT       NOT NULL PRIMARY KEY,
    task_id     BIGINT       NOT NULL,
    call_job_id VARCHAR(191) NOT NULL,
    opt_out_id  BIGINT       NOT NULL,
    outcome     VARCHAR(16)  NOT NULL DEFAULT '',
    noticed_at  DATETIME(6)  NOT NULL,
    settled_at  DATETIME(6)  NULL,
    KEY idx_task (task_id, outcome)
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
-- person deleted it. One counts for its row only while the row has this job id, and for its task only while the task
-- has this group: ids come again where a CRM is restored. stored_hash: SHA-256 of remark and next time as
-- the CRM kept them. (STORED alone is a word of MySQL's own.)
CREATE TABLE IF NOT EXISTS call_follow_ups (
    list_id       BIGINT       NOT NULL PRIMARY KEY,
    task_id       BIGINT       NOT NULL,
    job_group_id  VARCHAR(191) NULL,
    call_job_id   VARCHAR(191) NOT NULL,
    follow_id     BIGINT       NOT NULL,
    is_interested INT          NOT NULL,
    outcome       VARCHAR(16)  NOT NULL,
    stored_hash   CHAR(64)     NOT NULL,
    created_at    DATETIME(6)  NOT NULL,
    KEY idx_task (task_id, outcome),
    KEY idx_follow (follow_id)
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4;

-- Every judgement of a call: analysed by the model, default (nothing to analyse), failed, over_ceiling, or unreadable
-- (an answer that was paid for and is no judgement). What the model answered is here before the CRM is written:
-- settled_at is NULL until the CRM has it, or has kept what a person wrote instead. do_not_call: the customer's own
-- sentence that refuses further calls; '' if there is none. characters: of the transcript that was read.
CREATE TABLE IF NOT EXISTS call_analyses (
    id               BIGINT       NOT NULL AUTO_INCREMENT PRIMARY KEY,
    answer_id        CHAR(32)     NULL UNIQUE,
    list_id          BIGINT       NOT NULL,
    task_id          BIGINT       NOT NULL,
    job_group_id     VARCHAR(191) NULL,
    call_job_id      VARCHAR(191) NOT NULL,
    request_id       VARCHAR(64)  NOT NULL DEFAULT '',
    outcome          VARCHAR(16)  NOT NULL,
    is_interested    INT          NOT NULL,
    leads_remark     TEXT         NOT NULL,
    next_follow_time DATETIME     NULL,
    evidence         TEXT         NOT NULL,
    do_not_call      TEXT         NOT NULL,
    wrong_number     TINYINT      NOT NULL DEFAULT 0,
    model            VARCHAR(80)  NOT NULL DEFAULT '',
    prompt_version   VARCHAR(32)  NOT NULL DEFAULT '',
    transcript_hash  CHAR(64)     NOT NULL DEFAULT '',
    characters       INT          NOT NULL DEFAULT 0,
    input_tokens     INT          NOT NULL DEFAULT 0,
    output_tokens    INT          NOT NULL DEFAULT 0,
    error_code       VARCHAR(80)  NOT NULL DEFAULT '',
    created_at       DATETIME(6)  NOT NULL,
    settled_at       DATETIME(6)  NULL,
    KEY idx_list (list_id, id),
    KEY idx_task (task_id, request_id),
    KEY idx_task_list (task_id, list_id),
    KEY idx_job (call_job_id)
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4;

-- What people said of judgements: corrected (and the CRM says it), or confirmed as right.
CREATE TABLE IF NOT EXISTS call_corrections (
    id               BIGINT       NOT NULL AUTO_INCREMENT PRIMARY KEY,
    list_id          BIGINT       NOT NULL,
    task_id          BIGINT       NOT NULL,
    call_job_id      VARCHAR(191) NOT NULL,
    kind             VARCHAR(16)  NOT NULL,
    is_interested    INT          NOT NULL,
    leads_remark     TEXT         NOT NULL,
    next_follow_time DATETIME     NULL,
    do_not_call      TINYINT      NOT NULL,
    created_by       VARCHAR(191) NOT NULL,
    created_at       DATETIME(6)  NOT NULL,
    UNIQUE KEY uq_said (list_id, created_at),
    KEY idx_task (task_id)
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4;

-- How a task's rows stood when they were last counted within an hour: for people who look at campaigns, and for nothing
-- else. The first count stands in the hour before it: what had happened until then is of no hour. counted_at: when
-- counting began. create_time is the task's: ids can come again.
CREATE TABLE IF NOT EXISTS call_standings (
    task_id     BIGINT      NOT NULL,
    hour        DATETIME    NOT NULL,
    create_time DATETIME(6) NULL,
    counted_at  DATETIME(6) NOT NULL,
    leads       INT         NOT NULL,
    called      INT         NOT NULL,
    calls_over  INT         NOT NULL,
    left_out    INT         NOT NULL,
    follow_ups  INT         NOT NULL,
    interest_0  INT         NOT NULL,
    interest_1  INT         NOT NULL,
    interest_2  INT         NOT NULL,
    tokens      BIGINT      NOT NULL,
    PRIMARY KEY (task_id, hour)
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4;

-- What stays with a task from one run to the next: the options that it was started with (JSON), whether its calls are
-- paused, and, if nothing of it was called, until when it is left alone. create_time is the task's: ids can come again.
CREATE TABLE IF NOT EXISTS call_task_options (
    task_id      BIGINT      NOT NULL PRIMARY KEY,
    create_time  DATETIME(6) NULL,
    options      TEXT        NOT NULL,
    paused       TINYINT     NOT NULL DEFAULT 0,
    jobs_at_rest BIGINT      NULL,
    rests        INT         NOT NULL DEFAULT 0,
    look_after   DATETIME(6) NULL
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4;

-- The shared time line of each rate limit: the time, in microseconds since 1970, up to which calls are booked.
CREATE TABLE IF NOT EXISTS call_rate_limits (
    name    VARCHAR(80) NOT NULL PRIMARY KEY,
    next_at BIGINT      NOT NULL
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4;

-- What happened, as receivers are told (docs/events.md): written in the transaction of the fact. event_id follows from the
-- fact, so that it stands once. position: its place among the organisation's events, given once it is committed, so that
-- nothing that is committed late is passed over; NULL until then. payload: JSON, ids and codes, nothing of a person.
CREATE TABLE IF NOT EXISTS call_events (
    id              BIGINT       NOT NULL AUTO_INCREMENT PRIMARY KEY,
    event_id        CHAR(36)     CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    organization_id VARCHAR(191) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL,
    position        BIGINT       NULL,
    task_id         BIGINT       NOT NULL,
    kind            VARCHAR(32)  NOT NULL,
    payload         TEXT         NOT NULL,
    created_at      DATETIME(6)  NOT NULL,
    UNIQUE KEY uq_event (event_id),
    KEY idx_position (organization_id, position)
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4;

-- How many of an organisation's events have their position: a row for each that ever had a subscription.
CREATE TABLE IF NOT EXISTS call_event_positions (
    organization_id VARCHAR(191) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL PRIMARY KEY,
    last            BIGINT       NOT NULL
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4;

-- Who is told, and how far that is: events up to position are delivered, or were passed over (dead, so many). Told are
-- events since a time. due_at: nothing is sent before; while somebody sends, it is when others may take over. ended_at:
-- the receiver wants no more. secrets are encrypted where there are keys; old_secret counts until old_until.
CREATE TABLE IF NOT EXISTS call_event_subscriptions (
    id              BIGINT        NOT NULL AUTO_INCREMENT PRIMARY KEY,
    organization_id VARCHAR(191)  CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL,
    url             VARCHAR(2000) NOT NULL,
    kinds           VARCHAR(500)  NOT NULL,
    batch           TINYINT       NOT NULL DEFAULT 0,
    personal_data   TINYINT       NOT NULL DEFAULT 0,
    secret          VARCHAR(500)  NOT NULL,
    old_secret      VARCHAR(500)  NOT NULL DEFAULT '',
    old_until       DATETIME(6)   NULL,
    since           DATETIME(6)   NOT NULL,
    position        BIGINT        NOT NULL DEFAULT 0,
    delivered       BIGINT        NOT NULL DEFAULT 0,
    dead            BIGINT        NOT NULL DEFAULT 0,
    failures        INT           NOT NULL DEFAULT 0,
    failing_since   DATETIME(6)   NULL,
    last_error      VARCHAR(80)   NOT NULL DEFAULT '',
    due_at          DATETIME(6)   NOT NULL,
    created_at      DATETIME(6)   NOT NULL,
    ended_at        DATETIME(6)   NULL,
    KEY idx_due (ended_at, due_at),
    KEY idx_organization (organization_id)
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4;
