-- Which answers should a person check first? Those with the smallest margin to the second-best answer.
-- $margin = 0.2: largest margin (probability minus that of the second-best answer)
SELECT
    media_key, start_s, end_s, question_id, answer,
    round(probability, 3) AS probability, round(margin, 3) AS margin
FROM answers
WHERE margin < $margin
ORDER BY answers.margin, media_key, start_s, question_id
