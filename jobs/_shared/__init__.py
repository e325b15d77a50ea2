"""What commands share and what is not a command: options, display, tables of output."""
