"""Tests of decoding and answering."""
