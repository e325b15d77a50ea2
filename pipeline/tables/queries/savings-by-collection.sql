-- What did pruning save in each folder, compared with dense with prefix reuse and with dense?
SELECT
    CASE WHEN media_key LIKE '%/%' THEN split_part(media_key, '/', 1) ELSE '' END AS collection,
    count(*) - count(copy_of) AS clips, count(copy_of) AS copies,
    round(sum(retained_ratio * (audio_tokens + video_tokens)) / sum(audio_tokens + video_tokens), 3) AS retained_ratio,
    round(sum(as_run_flops) / 1e12, 3) AS as_run_tflop,
    round(sum(dense_shared_flops) / 1e12, 3) AS dense_shared_tflop,
    round(1 - sum(as_run_flops) / CAST(sum(dense_shared_flops) AS DOUBLE), 3) AS saved_against_dense_shared,
    round(1 - sum(as_run_flops) / CAST(sum(dense_flops) AS DOUBLE), 3) AS saved_against_dense,
    round(sum(model_s), 1) AS model_s
FROM clips
GROUP BY 1
ORDER BY dense_shared_tflop DESC, collection
