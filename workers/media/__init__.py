"""Media: probing and decoding in confined processes, fetching from stores, clips as arrays."""
