"""Hostile media through the real path: made here from a seed, run as a job, and watched from outside.

`seeds` makes real media, `structure` knows where containers have borders, `mutations` damages, `crafted` builds what no
damage makes, `references` builds files that name other files and addresses, `trials` gives all of them out in a
reproducible order, `watching` sees what children do, `harness` runs the job and counts. Nothing here is needed to use
the project.
"""
