"""One job's results as one self-contained HTML page: savings, what was kept, answers, failures, time."""
