"""How runs begin: submitted to a cluster, or on schedule, never two at once."""
