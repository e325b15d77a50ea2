"""What an archive holds: listing and probing."""
