-- How often was each answer given?
SELECT
    question_id, answer, count(*) AS clips,
    round(CAST(count(*) AS DOUBLE) / sum(count(*)) OVER (PARTITION BY question_id), 3) AS share,
    round(avg(probability), 3) AS probability
FROM answers
WHERE answer IS NOT NULL
GROUP BY question_id, answer
ORDER BY question_id, clips DESC, answer
