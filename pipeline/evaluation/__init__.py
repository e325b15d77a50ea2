"""What answers are worth: questions whose right answers are known, asked through the real decoding path and scored.

Promises: every way of pruning is measured on the same files and questions, a question that failed counts as wrong, and
every figure comes with its count and a standard error clustered by clip. Knows nothing about the command line.

Sources of questions: `toy`, `labels`, `published`. One run: `running`. Figures: `intervals`, `summary`.
"""
