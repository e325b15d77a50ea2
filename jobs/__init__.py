"""What a person or a scheduler starts: one thin module per command."""
