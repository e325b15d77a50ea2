"""Files that are hostile by what they say, not by damage: odd sizes, times, streams and sound, made by ffmpeg.

Promises: each builder writes one file that ffmpeg itself calls valid, the same bytes every time. Knows nothing about
limits; what was put together byte by byte is in `bombs`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from tests.robustness.fuzz_media.seeds import AAC, BOTH, H264, PCM, PICTURE, SECONDS, SOUND

FFV1 = ("-c:v", "ffv1")
COPY = ("-c", "copy")


def _picture(size: str, *, rate: str = "10", seconds: float = SECONDS) -> tuple[str, ...]:
    return ("-f", "lavfi", "-i", f"color=red:s={size}:r={rate}:d={seconds}")


def _sizes() -> Iterator[tuple[str, tuple[str, ...]]]:
    for size in ("1x1", "2x2", "1x480", "640x1", "16384x1", "1x16384", "16384x2", "3x16383", "7x5", "4095x3"):
        yield f"picture-{size}.mkv", (*_picture(size), "-c:v", "png")
    for size in ("8192x8192", "16384x8640", "6001x6000", "16384x4096"):
        png = ("-frames:v", "1", "-pix_fmt", "gray", "-c:v", "png")
        yield f"picture-{size}.mkv", (*_picture(size), *png)
        yield f"picture-{size}.mov", (*_picture(size), *png)
    yield "picture-2x2.mp4", (*_picture("2x2"), *H264)
    yield "picture-16384x16.mp4", (*_picture("16384x16"), *H264)
    yield "picture-16x16384.mp4", (*_picture("16x16384"), *H264)
    yield "aspect-1000-1.mp4", (*PICTURE, "-vf", "setsar=1000/1", *H264)
    yield "aspect-9-1.mp4", (*PICTURE, "-vf", "setsar=9/1", *H264)
    yield "aspect-1-65535.mkv", (*PICTURE, "-vf", "setsar=1/65535", *FFV1)
    for degrees in ("45", "90", "180", "270", "33.3", "-90", "359.9"):
        yield f"rotated{degrees}.mp4", ("-display_rotation", degrees, *PICTURE, *H264)
    yield "flipped.mp4", ("-display_hflip", "-display_vflip", *PICTURE, *H264)


def _times() -> Iterator[tuple[str, tuple[str, ...]]]:
    expressions = {
        "same": "0",
        "backwards": "(100-N)/10/TB",
        "negative": "PTS-1/TB",
        "very-negative": "PTS-900/TB",
        "not-a-number": "if(eq(mod(N,3),0),NAN,PTS)",
        "jump": "PTS+gt(N,10)*900/TB",
        "jump-back": "PTS-gt(N,10)*1/TB",
        "zigzag": "PTS+(mod(N,2)*2-1)*3/TB",
        "exponential": "pow(1.6,N)",
        "dense": "N",
        "far": "PTS+1e15",
    }
    for name, expression in expressions.items():
        for suffix in ("mkv", "ts", "nut", "mp4"):
            both = f"setts=pts='{expression}':dts='{expression}'"
            yield (
                f"times-{name}.{suffix}",
                (*BOTH, *H264[:6], "-bf", "0", "-c:a", "mp2", "-bsf:v", both, "-max_interleave_delta", "0"),
            )
        sound = f"asetpts='{expression}'"
        yield f"sound-times-{name}.mkv", (*BOTH, *FFV1, *PCM, "-af", sound)
    for offset in ("-5", "1000000", "95442", "26.5"):
        for suffix in ("ts", "mkv", "mp4"):
            options = ("-avoid_negative_ts", "disabled", "-output_ts_offset", offset)
            yield f"starts-at{offset}.{suffix}", (*BOTH, *H264, "-c:a", "mp2", *options)
    yield "two-rates.mkv", (*BOTH, "-vf", "select='lt(t,1)+not(mod(n,9))'", "-fps_mode", "vfr", *FFV1, *PCM)
    yield "one-frame-a-minute.mkv", (*_picture("64x48", rate="1/60", seconds=600), *FFV1)
    yield "thousand-frames-a-second.mkv", (*_picture("16x16", rate="1000", seconds=3), *FFV1)
    yield "late-sound.mkv", (*PICTURE, "-itsoffset", "100", *SOUND, *FFV1, *PCM)
    yield "late-picture.mkv", ("-itsoffset", "100", *PICTURE, *SOUND, *FFV1, *PCM)


def _sounds() -> Iterator[tuple[str, tuple[str, ...]]]:
    one = ("-f", "lavfi", "-i", "sine=sample_rate=16000:duration=1", "-af", "atrim=end_sample=1")
    for suffix in ("wav", "mkv", "m4a", "mp3", "ogg", "ts", "aiff", "caf"):
        yield f"one-sample.{suffix}", one
    for rate in ("1", "8", "100", "384000", "1000000"):
        yield f"rate-{rate}.wav", (*SOUND, *PCM, "-af", f"asetrate={rate}", "-ar", rate, "-t", "1")
    for layout in ("7.1", "22.2", "hexadecagonal"):
        yield f"channels-{layout}.wav", ("-f", "lavfi", "-i", f"anullsrc=cl={layout}:r=16000:d=1", *PCM)
    yield "not-numbers.wav", ("-f", "lavfi", "-i", "aevalsrc=0/0:d=2:s=16000", "-c:a", "pcm_f32le")
    yield "infinite.mkv", ("-f", "lavfi", "-i", "aevalsrc=1/0:d=2:s=16000", "-c:a", "pcm_f64le")
    yield "loud.wav", ("-f", "lavfi", "-i", "aevalsrc=1e30*sin(t*999):d=2:s=16000", "-c:a", "pcm_f32le")
    silence = ("-f", "lavfi", "-i", "anullsrc=r=8000:d=1200")
    yield "twenty-minutes-of-nothing.flac", (*silence, "-c:a", "flac", "-frame_size", "65535")
    yield "only-picture.mkv", (*PICTURE, *FFV1)
    yield "only-sound.mkv", (*SOUND, *PCM)
    yield "sound-goes-on.mp4", (*PICTURE, "-f", "lavfi", "-i", "sine=duration=20", *H264, *AAC)
    yield "picture-goes-on.mp4", (*_picture("64x48", seconds=20), *SOUND, *H264, *AAC)


def _streams() -> Iterator[tuple[str, tuple[str, ...]]]:
    for count in (40, 200, 300):
        yield f"{count}-sounds.mkv", (*SOUND, *("-map", "0") * count, "-t", "0.5", *PCM)
    yield "100-pictures.mkv", (*PICTURE, *("-map", "0") * 100, "-t", "0.5", "-c:v", "mpeg4")
    yield "60-sounds.ts", (*SOUND, *("-map", "0") * 60, "-t", "0.5", "-c:a", "mp2")
    yield "120-sounds.mp4", (*SOUND, *("-map", "0") * 120, "-t", "0.5", *AAC)
    yield "long-title.mkv", (*BOTH, *FFV1, *PCM, "-metadata", f"title={'{{ 7*7 }}<script>' * 6000}")
    odd = "a\nb\tc\x01\u202e\ufffe'\";--{{ media.__class__ }}"
    yield "odd-title.mkv", (*BOTH, *FFV1, *PCM, "-metadata", f"title={odd}", "-metadata", f"{odd}=x")


RECIPES: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "odd_pictures": dict(_sizes()),
    "odd_times": dict(_times()),
    "odd_sound": dict(_sounds()),
    "odd_streams": dict(_streams()),
}
"""By kind and name: arguments for `seeds.make`."""
