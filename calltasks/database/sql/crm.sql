-- The CRM's own tables (rule 15), for an empty database. Where a table exists it is left as it is.

CREATE TABLE IF NOT EXISTS call_tasks (
    id              BIGINT       NOT NULL AUTO_INCREMENT PRIMARY KEY,
    task_name       VARCHAR(255) NOT NULL DEFAULT '',
    organization_id VARCHAR(64)  NOT NULL,
    task_type       INT          NOT NULL DEFAULT 1,
    job_group_id    VARCHAR(64)  NULL,
    create_time     DATETIME     NULL
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4;

CREATE TABLE IF NOT EXISTS dcc_leads (
    leads_id         BIGINT       NOT NULL PRIMARY KEY,
    organization_id  VARCHAR(64)  NOT NULL,
    leads_user_name  VARCHAR(255) NULL,
    leads_user_phone VARCHAR(32)  NULL,
    KEY idx_organization (organization_id)
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4;

CREATE TABLE IF NOT EXISTS leads_task_list (
    id                BIGINT        NOT NULL AUTO_INCREMENT PRIMARY KEY,
    task_id           BIGINT        NOT NULL,
    leads_id          BIGINT        NOT NULL,
    leads_name        VARCHAR(255)  NULL,
    leads_phone       VARCHAR(32)   NULL,
    call_time         DATETIME      NULL,
    call_job_id       VARCHAR(64)   NULL DEFAULT '',
    reference_id      VARCHAR(191)  NULL,
    call_conversation MEDIUMTEXT    NULL,
    call_status       VARCHAR(32)   NULL,
    planed_time       DATETIME      NULL,
    call_task_id      VARCHAR(64)   NULL,
    calling_number    VARCHAR(32)   NULL,
    recording_url     VARCHAR(2048) NULL,
    leads_follow_id   BIGINT        NULL,
    is_interested     INT           NULL,
    updated_time      DATETIME      NULL,
    KEY idx_task (task_id, id),
    KEY idx_task_reference (task_id, reference_id),
    KEY idx_task_phone (task_id, leads_phone),
    KEY idx_job (call_job_id),
    KEY idx_follow (leads_follow_id)
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4;

CREATE TABLE IF NOT EXISTS dcc_leads_follow (
    id                BIGINT   NOT NULL AUTO_INCREMENT PRIMARY KEY,
    leads_id          BIGINT   NOT NULL,
    follow_time       DATETIME NULL,
    leads_remark      TEXT     NULL,
    frist_follow_time DATETIME NULL,
    new_follow_time   DATETIME NULL,
    next_follow_time  DATETIME NULL,
    KEY idx_leads (leads_id)
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4;
