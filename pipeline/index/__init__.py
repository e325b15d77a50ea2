"""The savings index: SQL tables that follow from the journal."""
