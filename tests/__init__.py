"""Tests, by module; they read like examples of use."""
