"""Everything that only a GPU can tell, in steps that fail alone."""
