"""The archive job: configuration, planning, execution on Ray, journal, tables, savings index."""
