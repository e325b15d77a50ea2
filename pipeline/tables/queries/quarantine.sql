-- What could not be answered, why, and what is an example of each error?
SELECT
    error_class, stage, count(*) AS cases, count(DISTINCT media_id) AS videos,
    min(media_key) AS for_example, min(message) AS message
FROM quarantine
GROUP BY error_class, stage
ORDER BY cases DESC, error_class
