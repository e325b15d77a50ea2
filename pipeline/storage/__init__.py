"""Whole objects under keys, in a folder or in S3; failures that may pass, and waiting for them."""
