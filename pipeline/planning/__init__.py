"""From an archive to work units: opening a job, planning, cutting, what to retry."""
