-- What holds for a whole video, by the rule that its question set names beside a question (`video: any`), or by what
-- the model answered when it was asked about all of it (`scope: video`, the rule is `asked`).
-- `yes` is the probability of yes, NULL where an answer is not a truth; a video says yes from 0.5 on. Ranges are those of answer_ranges.
WITH asked AS (
    SELECT
        answers.*, recipe_questions.rule, media.clips AS planned,
        CASE WHEN answer_boolean THEN probability WHEN answer_boolean = false THEN 1 - probability END AS yes
    FROM answers
    JOIN media ON media.job = answers.job AND media.media_id = answers.media_id
    JOIN recipe_questions
        ON recipe_questions.recipe_hash = media.recipe_hash AND recipe_questions.question_id = answers.question_id
    WHERE answers.answer IS NOT NULL AND recipe_questions.rule IS NOT NULL
),
found AS (
    SELECT
        job, media_id, media_key, question_id, rule, answer_type, any_value(planned) AS planned, count(*) AS clips,
        max(yes) AS most, min(yes) AS least, sum(yes * (end_s - start_s)) / sum(end_s - start_s) AS mean_yes,
        sum(answer_number * (end_s - start_s)) / sum(end_s - start_s) AS mean_number
    FROM asked
    GROUP BY job, media_id, media_key, question_id, rule, answer_type
),
votes AS (
    SELECT
        job, media_id, question_id, answer, sum(probability) AS weight,
        sum(probability) / sum(sum(probability)) OVER (PARTITION BY job, media_id, question_id) AS share,
        row_number() OVER (
            PARTITION BY job, media_id, question_id ORDER BY sum(probability) DESC, min(start_s), answer
        ) AS place
    FROM asked
    WHERE rule = 'majority'
    GROUP BY job, media_id, question_id, answer
),
ranges AS (
    SELECT
        *,
        row_number() OVER (PARTITION BY job, media_id, question_id ORDER BY start_s, end_s, answer) AS from_first,
        row_number() OVER (PARTITION BY job, media_id, question_id ORDER BY end_s DESC, start_s DESC, answer) AS from_last,
        row_number() OVER (
            PARTITION BY job, media_id, question_id ORDER BY end_s - start_s DESC, start_s, answer
        ) AS from_longest
    FROM answer_ranges
    WHERE answer_boolean IS DISTINCT FROM false
),
totals AS (
    SELECT job, media_id, question_id, count(*) AS ranges, sum(end_s - start_s) AS seconds
    FROM ranges
    GROUP BY job, media_id, question_id
)
SELECT
    found.job, found.media_id, found.media_key, found.question_id, found.rule,
    CASE found.rule
        WHEN 'any' THEN CASE WHEN found.most >= 0.5 THEN 'yes' ELSE 'no' END
        WHEN 'all' THEN CASE WHEN found.least >= 0.5 THEN 'yes' ELSE 'no' END
        WHEN 'majority' THEN CASE
            WHEN found.most IS NULL THEN votes.answer WHEN found.mean_yes >= 0.5 THEN 'yes' ELSE 'no'
        END
        WHEN 'first' THEN ranges.answer
        WHEN 'last' THEN ranges.answer
        WHEN 'longest' THEN ranges.answer
    END AS answer,
    CASE found.rule
        WHEN 'count' THEN CAST(coalesce(totals.ranges, 0) AS DOUBLE)
        WHEN 'total_s' THEN coalesce(totals.seconds, 0)
        WHEN 'mean' THEN coalesce(found.mean_yes, found.mean_number)
    END AS answer_number,
    CASE found.rule
        WHEN 'any' THEN greatest(found.most, 1 - found.most)
        WHEN 'all' THEN greatest(found.least, 1 - found.least)
        WHEN 'majority' THEN CASE
            WHEN found.most IS NULL THEN votes.share ELSE greatest(found.mean_yes, 1 - found.mean_yes)
        END
        WHEN 'first' THEN ranges.probability
        WHEN 'last' THEN ranges.probability
        WHEN 'longest' THEN ranges.probability
    END AS probability,
    ranges.start_s, ranges.end_s, found.clips, found.planned - found.clips AS clips_missing
FROM found
LEFT JOIN votes
    ON votes.job = found.job AND votes.media_id = found.media_id AND votes.question_id = found.question_id
    AND votes.place = 1
LEFT JOIN ranges
    ON ranges.job = found.job AND ranges.media_id = found.media_id AND ranges.question_id = found.question_id
    AND CASE found.rule
        WHEN 'first' THEN ranges.from_first WHEN 'last' THEN ranges.from_last WHEN 'longest' THEN ranges.from_longest
    END = 1
LEFT JOIN totals
    ON totals.job = found.job AND totals.media_id = found.media_id AND totals.question_id = found.question_id
UNION ALL
SELECT
    job, media_id, media_key, question_id, 'asked', answer, answer_number, probability, NULL, NULL, clips, clips_missing
FROM whole_answers
WHERE answer IS NOT NULL
