-- Where each answer comes from: the file by the SHA-256 of its bytes, the span, what answered, with which software, what of the clip it saw.
SELECT
    answers.job, answers.media_key, answers.content_id, answers.clip_id, answers.start_s, answers.end_s,
    answers.question_id, answers.question, answers.answer, answers.probability, answers.model,
    regexp_extract(runs.recipe, '"weights": "([^"]*)"', 1) AS weights, runs.model_revision, runs.code_version,
    answers.answer_format, runs.tools AS ffmpeg, answers.mode, answers.policy, answers.retained_ratio_target,
    asked.retained_ratio, asked.decoded_share,
    audits.run_id IS NOT NULL AND audits.error_class IS NULL AS unpruned_too,
    media.sidecars, answers.run_id, runs.started_at AS run_started_at
FROM answers
LEFT JOIN runs ON runs.run_id = answers.run_id
LEFT JOIN clips AS asked ON asked.clip_id = coalesce(answers.copy_of, answers.clip_id)
LEFT JOIN audits ON audits.clip_id = coalesce(answers.copy_of, answers.clip_id) AND audits.run_id = answers.run_id
LEFT JOIN media ON media.job = answers.job AND media.media_id = answers.media_id
