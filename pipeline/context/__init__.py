"""What others wrote about a media item: sidecars beside the file, read, cleaned and cut to a clip."""
