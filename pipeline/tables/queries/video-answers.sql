-- How many seconds of each video does each answer cover? Overlaps are counted once.
-- $question = %: a question id; % matches any text
-- $answer = %: an answer
SELECT
    media_key, question_id, answer,
    round(sum(end_s - start_s), 3) AS seconds, count(*) AS ranges, sum(clips) AS clips
FROM answer_ranges
WHERE question_id LIKE $question AND answer LIKE $answer
GROUP BY job, media_id, media_key, question_id, answer
ORDER BY media_key, question_id, seconds DESC, answer
