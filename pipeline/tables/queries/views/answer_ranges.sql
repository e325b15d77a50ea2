-- Time ranges of a media item that share an answer: clips that touch or overlap are one range, counted once.
-- Where overlapping clips disagree, their overlap belongs to the ranges of both answers.
WITH reached AS (
    SELECT *, max(end_s) OVER (
        PARTITION BY job, media_id, question_id, answer ORDER BY start_s, end_s
        ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
    ) AS reached_s
    FROM answers
    WHERE answer IS NOT NULL
),
numbered AS (
    SELECT *, sum(CASE WHEN start_s <= reached_s + 0.000001 THEN 0 ELSE 1 END) OVER (
        PARTITION BY job, media_id, question_id, answer ORDER BY start_s, end_s
        ROWS UNBOUNDED PRECEDING
    ) AS range_number
    FROM reached
)
SELECT
    job, media_id, media_key, question_id, answer_type, answer, any_value(answer_boolean) AS answer_boolean,
    min(start_s) AS start_s, max(end_s) AS end_s, count(*) AS clips,
    avg(probability) AS probability, min(probability) AS least_probability
FROM numbered
GROUP BY job, media_id, media_key, question_id, answer_type, answer, range_number
