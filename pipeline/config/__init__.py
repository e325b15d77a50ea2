"""The job file: schema, YAML with line numbers, messages, locations, what settings mean to workers."""
