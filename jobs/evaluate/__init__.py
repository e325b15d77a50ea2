"""Measure the accuracy lost by pruning.

Clips are decoded exactly as in a job. A question that fails counts as wrong. Standard errors are clustered by clip.
With --dense, the same questions are also answered without pruning, and the differences are paired.
"""

SUBCOMMANDS = {
    "toy-world": "On rendered clips of a toy world, which the embedded model was trained for.",
    "labels": "On your own archive, against your own right answers: which ratio is safe for a job?",
    "truth": "On toy clips that someone else rendered, with a file that says what they show.",
    "benchmark": "On a published benchmark in a local folder: WorldSense, Daily-Omni, Video-MME, AVUT.",
}
"""Names and summaries, in the order of the help; each is a module of this folder."""

EXAMPLES = (
    "omnidrop evaluate toy-world --world v1 --clips 20 --retained 0.2 --json result.json",
    "omnidrop evaluate labels --labels labels.csv --job job.yaml   # which ratio is safe for my archive?",
    "omnidrop evaluate toy-world --help",
)
