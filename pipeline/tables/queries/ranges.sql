-- When does each answer hold? Its time ranges in each video.
-- $question = %: a question id; % matches any text
-- $answer = %: an answer
SELECT media_key, question_id, answer, start_s, end_s, clips, round(least_probability, 3) AS least_probability
FROM answer_ranges
WHERE question_id LIKE $question AND answer LIKE $answer
ORDER BY media_key, question_id, start_s, answer
