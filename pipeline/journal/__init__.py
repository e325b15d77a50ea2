"""The truth: finished work units, current-version pointers, recipes, run records."""
