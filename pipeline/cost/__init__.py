"""What a run costs: throughput, calibration, estimates, budgets."""
