"""What decodes: ffmpeg and probing in confined processes, fetching, clips."""
