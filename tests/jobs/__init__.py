"""Tests of the command line, the pages and the deployment files."""
