-- What our tables held before init-db wrote their version down, brought into the form of version 1. Every statement may
-- be run again; the last one says that all is done.

ALTER TABLE call_follow_ups ADD COLUMN call_job_id VARCHAR(191) NOT NULL DEFAULT '' AFTER task_id;
ALTER TABLE call_follow_ups ADD COLUMN at_first CHAR(64) NOT NULL DEFAULT '';
ALTER TABLE call_analyses MODIFY call_job_id VARCHAR(191) NOT NULL;
ALTER TABLE call_analyses ADD COLUMN settled_at DATETIME(6) NULL;

-- Each judgement was written together with the CRM.
UPDATE call_analyses SET settled_at = created_at WHERE settled_at IS NULL;

UPDATE call_follow_ups k JOIN leads_task_list l ON l.id = k.list_id AND l.task_id = k.task_id
SET k.call_job_id = COALESCE(l.call_job_id, '');

-- What was written last: of failures the first, for later ones replace nothing; without a transcript what is always said.
UPDATE call_follow_ups k JOIN (
    SELECT j.list_id, CASE o.outcome WHEN 'failed' THEN MIN(j.id) ELSE MAX(j.id) END AS id
    FROM call_follow_ups o JOIN call_analyses j ON j.list_id = o.list_id AND j.outcome = o.outcome
    GROUP BY j.list_id, o.outcome
) w ON w.list_id = k.list_id JOIN call_analyses a ON a.id = w.id
SET k.at_first = SHA2(CONCAT(TRIM(a.leads_remark), '\n', COALESCE(a.next_follow_time, '')), 256);
UPDATE call_follow_ups k JOIN leads_task_list l ON l.id = k.list_id
SET k.at_first = SHA2(CONCAT(CASE CONVERT(l.call_status USING utf8mb4) WHEN 'Failed' THEN '呼叫失败；'
    WHEN 'Succeeded' THEN '外呼已完成，但暂无通话内容；'
    ELSE CONCAT('外呼状态：', CONVERT(l.call_status USING utf8mb4), '；') END, '\n'), 256)
WHERE k.at_first = '' AND k.outcome = 'default';
UPDATE call_follow_ups k JOIN dcc_leads_follow f ON f.id = k.follow_id
SET k.at_first = SHA2(CONCAT(TRIM(CONVERT(COALESCE(f.leads_remark, '') USING utf8mb4)), '\n',
    COALESCE(f.next_follow_time, '')), 256)
WHERE k.at_first = '';

INSERT IGNORE INTO call_task_options (task_id, create_time, options)
SELECT c.task_id, t.create_time, CONCAT('{"token_ceiling": ', c.token_ceiling, '}')
FROM call_token_ceilings c JOIN call_tasks t ON t.id = c.task_id;

ALTER TABLE call_follow_ups CHANGE at_first stored_hash CHAR(64) NOT NULL;
