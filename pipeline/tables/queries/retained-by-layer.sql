-- What share of audio and video tokens is kept in each layer of the model?
SELECT
    layer,
    round(sum(layer_audio) / CAST(sum(audio_tokens) AS DOUBLE), 3) AS audio_kept,
    round(sum(layer_video) / CAST(sum(video_tokens) AS DOUBLE), 3) AS video_kept
FROM (
    SELECT
        audio_tokens, video_tokens,
        generate_subscripts(layer_video_tokens, 1) - 1 AS layer,
        unnest(layer_audio_tokens) AS layer_audio, unnest(layer_video_tokens) AS layer_video
    FROM clips
) AS layers
GROUP BY layer
ORDER BY layer
