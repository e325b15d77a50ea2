"""What an answerer says of itself. A driver reads it without the torch that the answerer itself loads."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class AnswererDescription:
    """What answered: for the record of a run."""

    model: str
    family: str
    weights_hash: str
    device: str
    """Name of the device, as its driver gives it."""
    dtype: str
    versions: tuple[tuple[str, str], ...]
    load_s: float
    clips: int
    shrunk: int
    """Clips answered with a smaller token budget for want of memory."""
    peak_rss_bytes: int
    peak_device_bytes: int | None = None
    """What is taken of the device's memory at most, by whomever; None on a CPU, as the next."""
    device_bytes: int | None = None
    """All that the device has."""

    def __str__(self) -> str:
        versions = ", ".join(f"{name} {version}" for name, version in self.versions)
        return (
            f"{self.model} ({self.family}, {self.dtype}) on {self.device}: {self.clips} clips, loaded in "
            f"{self.load_s:.1f} s, peak {self.peak_rss_bytes / 2**20:.0f} MiB resident, {versions}, weights "
            f"{self.weights_hash[:12]}"
        )
