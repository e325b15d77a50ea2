"""Work units on Ray: scheduling, actors, failures of workers, metering."""
