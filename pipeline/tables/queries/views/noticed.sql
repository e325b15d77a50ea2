-- What was noticed about clips and files beside their answers: a row for each case, with how much of it.
-- silent_s, held_s, missing_s: seconds; clipped_share: of samples; segments, unused_tracks: how many the file has.
WITH following AS (
    SELECT *, lag(decoded_hash) OVER (PARTITION BY job, media_id ORDER BY start_s, end_s) AS hash_before
    FROM clips
)
SELECT job, media_id, media_key, start_s, end_s, 'silent_s' AS kind, silent_s AS amount FROM clips WHERE silent_s > 0
UNION ALL
SELECT job, media_id, media_key, start_s, end_s, 'held_s', held_s FROM clips WHERE held_s > 0
UNION ALL
SELECT job, media_id, media_key, start_s, end_s, 'missing_s', missing_s FROM clips WHERE missing_s > 0
UNION ALL
SELECT job, media_id, media_key, start_s, end_s, 'clipped_share', clipped_share FROM clips WHERE clipped_share > 0
UNION ALL
SELECT job, media_id, media_key, start_s, end_s, 'tone_mapped', 1 FROM clips WHERE tone_mapped
UNION ALL
SELECT job, media_id, media_key, start_s, end_s, 'repeated', 1
FROM following WHERE decoded_hash <> '' AND decoded_hash = hash_before
UNION ALL
SELECT job, media_id, media_key, 0, duration_s, 'segments', segments FROM media WHERE segments > 1
UNION ALL
SELECT job, media_id, media_key, 0, duration_s, 'unused_tracks', unused_tracks FROM media WHERE unused_tracks > 0
