-- What did each run do, cost and save?
SELECT
    runs.run_id, runs.started_at, runs.status, max(coalesce(given.answers, 0)) AS answers_that_count,
    count(clips.clip_id) - count(clips.copy_of) AS clips_last_asked,
    round(runs.wall_s, 1) AS wall_s, round(runs.decode_s, 1) AS decode_s, round(runs.model_s, 1) AS model_s,
    round(1 - sum(clips.as_run_flops) / CAST(sum(clips.dense_shared_flops) AS DOUBLE), 3) AS saved_against_dense_shared
FROM runs
LEFT JOIN clips ON clips.run_id = runs.run_id
LEFT JOIN (
    SELECT run_id, count(*) - count(copy_of) AS answers FROM answers GROUP BY run_id
) AS given ON given.run_id = runs.run_id
GROUP BY runs.run_id, runs.started_at, runs.status, runs.wall_s, runs.decode_s, runs.model_s
ORDER BY runs.started_at
