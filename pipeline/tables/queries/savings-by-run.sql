-- What did each run do, cost and save?
SELECT
    runs.run_id, runs.started_at, runs.status, count(clips.clip_id) AS clips_that_count,
    round(runs.wall_s, 1) AS wall_s, round(runs.decode_s, 1) AS decode_s, round(runs.model_s, 1) AS model_s,
    round(1 - sum(clips.as_run_flops) / CAST(sum(clips.dense_shared_flops) AS DOUBLE), 3) AS saved_against_dense_shared
FROM runs
LEFT JOIN clips ON clips.run_id = runs.run_id
GROUP BY runs.run_id, runs.started_at, runs.status, runs.wall_s, runs.decode_s, runs.model_s
ORDER BY runs.started_at
