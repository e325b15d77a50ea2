"""The published pruning methods OmniDrop is measured against, one module each, written in our own words.

Importing this package registers them with `omnidrop.policies`. Knows nothing about how a policy is run.
"""
