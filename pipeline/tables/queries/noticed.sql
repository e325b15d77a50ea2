-- Which media problems were noticed, how often, and what is an example of each?
SELECT
    kind, count(*) AS cases, count(DISTINCT media_id) AS videos, round(sum(amount), 2) AS amount,
    min(media_key) AS for_example
FROM noticed
GROUP BY kind
ORDER BY kind
