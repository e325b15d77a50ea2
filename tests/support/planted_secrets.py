"""Credentials that tests plant where a user has his own, to look for them where they must not be."""

from __future__ import annotations

PLANTED = {
    "AWS_ACCESS_KEY_ID": "AKIAPLANTEDKEY000001",
    "AWS_SECRET_ACCESS_KEY": "planted-aws-secret-0002",
    "AWS_SESSION_TOKEN": "planted-aws-token-0003",
    "OMNIDROP_INDEX_PASSWORD": "planted-index-password-0004",
    "HF_TOKEN": "hf_planted_token_0005",
}
IN_FILES = "planted-in-a-file-0006"
"""In files beside a job."""


def leaks(data: bytes) -> list[str]:
    """Which of them these bytes hold."""
    return [secret for secret in (*PLANTED.values(), IN_FILES) if secret.encode() in data]
