"""The packed, pruned prefill and decoding: layout, modes, importance."""
