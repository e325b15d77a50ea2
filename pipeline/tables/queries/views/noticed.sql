-- What was noticed about clips and files beside their answers: a row for each case, with how much of it.
-- silent_s, held_s, missing_s: seconds; clipped_share: of samples; segments, unused_tracks: how many the file has.
WITH following AS (
    SELECT
        job, media_id, media_key, start_s, end_s, silent_s, held_s, missing_s, clipped_share, tone_mapped, decoded_hash,
        lag(decoded_hash) OVER (PARTITION BY job, media_id ORDER BY start_s, end_s) AS hash_before
    FROM clips
),
cases AS (
    SELECT
        job, media_id, media_key, start_s, end_s, kind,
        CASE kind
            WHEN 'silent_s' THEN silent_s
            WHEN 'held_s' THEN held_s
            WHEN 'missing_s' THEN missing_s
            WHEN 'clipped_share' THEN clipped_share
            WHEN 'tone_mapped' THEN CASE WHEN tone_mapped THEN 1 END
            WHEN 'repeated' THEN CASE WHEN decoded_hash <> '' AND decoded_hash = hash_before THEN 1 END
        END AS amount
    FROM following
    CROSS JOIN (
        VALUES ('silent_s'), ('held_s'), ('missing_s'), ('clipped_share'), ('tone_mapped'), ('repeated')
    ) AS kinds (kind)
    UNION ALL
    SELECT
        job, media_id, media_key, 0, duration_s, kind,
        CASE kind
            WHEN 'segments' THEN CASE WHEN segments > 1 THEN segments END
            WHEN 'unused_tracks' THEN unused_tracks
        END
    FROM media
    CROSS JOIN (VALUES ('segments'), ('unused_tracks')) AS kinds (kind)
)
SELECT job, media_id, media_key, start_s, end_s, kind, amount FROM cases WHERE amount > 0
