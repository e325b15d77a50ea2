"""Moments out of the published tables, in the formats that editors, players and labelling tools open."""
