-- What holds for a whole video? How many seconds of it each answer covers, overlaps counted once.
-- $question = %: id of a question; % stands for any text
-- $answer = %: an answer
SELECT
    media_key, question_id, answer,
    round(sum(end_s - start_s), 3) AS seconds, count(*) AS ranges, sum(clips) AS clips
FROM answer_ranges
WHERE question_id LIKE $question AND answer LIKE $answer
GROUP BY job, media_id, media_key, question_id, answer
ORDER BY media_key, question_id, seconds DESC, answer
