"""The published tables: manifest, writing, publishing, queries."""
