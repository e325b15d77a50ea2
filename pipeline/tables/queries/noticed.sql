-- What was noticed about clips and files beside their answers, how much of it, and what would be an example?
SELECT
    kind, count(*) AS cases, count(DISTINCT media_id) AS videos, round(sum(amount), 2) AS amount,
    min(media_key) AS for_example
FROM noticed
GROUP BY kind
ORDER BY kind
