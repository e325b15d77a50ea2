"""The published pruning methods OmniDrop is measured against, one module each, written in our own words.

Importing this package registers them with `omnidrop.policies`. Knows nothing about how a policy is run.
"""

from omnidrop.baselines.dash import Dash
from omnidrop.baselines.divprune import DivPrune
from omnidrop.baselines.fastv import FastV
from omnidrop.baselines.omnizip import OmniZip
from omnidrop.baselines.random_tokens import Random
from omnidrop.baselines.seats import Seats

__all__ = ["Dash", "DivPrune", "FastV", "OmniZip", "Random", "Seats"]
