"""How the embedded checkpoints were made. Nothing of the product imports it."""
