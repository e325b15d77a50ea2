"""What runs on a cluster machine: media decoding (CPU) and the answering actor (GPU)."""
