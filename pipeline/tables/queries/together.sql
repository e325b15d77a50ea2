-- Which answers to two questions occur together in the same clips?
-- $first: a question id
-- $second: another question id
SELECT one.answer AS first_answer, other.answer AS second_answer, count(*) AS clips
FROM answers AS one
JOIN answers AS other ON one.clip_id = other.clip_id
WHERE one.question_id = $first AND other.question_id = $second
    AND one.answer IS NOT NULL AND other.answer IS NOT NULL
GROUP BY one.answer, other.answer
ORDER BY clips DESC, first_answer, second_answer
