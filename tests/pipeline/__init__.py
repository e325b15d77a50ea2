"""Tests of the archive job."""
