"""What pruning costs in right answers: the tables and plots of `docs/evidence.md`, made by one command.

`rows` says what is compared, `asking` asks it on real files, `tables` makes figures of the answers, `page` writes them
down. Knows nothing about archives or jobs.
"""
