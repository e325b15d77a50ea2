-- Which answers should a person look at first? Those that were hardly more probable than the next.
-- $margin = 0.2: probability ahead of the second answer, at most
SELECT
    media_key, start_s, end_s, question_id, answer,
    round(probability, 3) AS probability, round(margin, 3) AS margin
FROM answers
WHERE margin < $margin
ORDER BY answers.margin, media_key, start_s, question_id
