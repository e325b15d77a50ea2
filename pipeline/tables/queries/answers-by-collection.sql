-- How do answers differ between the folders of the archive?
-- $question = %: a question id; % matches any text
-- $answer = %: an answer
SELECT collection, question_id, answer, clips, round(CAST(clips AS DOUBLE) / all_clips, 3) AS share
FROM (
    SELECT
        collection, question_id, answer, count(*) AS clips,
        sum(count(*)) OVER (PARTITION BY collection, question_id) AS all_clips
    FROM (
        SELECT *, CASE WHEN media_key LIKE '%/%' THEN split_part(media_key, '/', 1) ELSE '' END AS collection
        FROM answers
        WHERE answer IS NOT NULL AND question_id LIKE $question
    ) AS in_collections
    GROUP BY collection, question_id, answer
) AS counted
WHERE answer LIKE $answer
ORDER BY question_id, answer, share DESC, collection
