"""`clips.decoder`: what is refused, what the CPU takes over, and what a process with a card may reach. What a card
shows is tested where one is."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from omnidrop.errors import UserError
from tests.support.media_files import make, picture, sound
from tests.support.small_jobs import QUESTIONS, run
from workers.errors import DecoderMissing
from workers.media import confinement, nvdec
from workers.media.clip_reader import decode_clip
from workers.media.decode import decode_one, decoder_here
from workers.media.probing import ProbePool
from workers.records import Clip, ClipFailure, DecodedClip, DecodeSettings, Media

has_card = pytest.mark.skipif(bool(nvdec.card().problem), reason=nvdec.card().problem)
no_card = pytest.mark.skipif(not nvdec.card().problem, reason="this machine has a card")
CARD = DecodeSettings(decoder="nvdec")


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("nvdec") / "one.mp4"
    make(*picture(2, size="64x48"), *sound(2), path)
    with ProbePool(1) as pool:
        ((_, info),) = pool.probe_many([(None, str(path))])
    return path, info


def decode(file, settings: DecodeSettings) -> DecodedClip:
    return decode_clip(*file, Clip("c", 0, 0.4, 1.9), settings)


@no_card
def test_a_job_is_refused_before_anything_is_begun(file, tmp_path):
    (tmp_path / "questions.yaml").write_text(QUESTIONS)
    job = tmp_path / "job.yaml"
    text = "name: small\narchive: {uri: %s}\noutput: %s\nquestion_set: questions.yaml\nclips: {decoder: nvdec}\n"
    job.write_text(text % (file[0].parent, tmp_path / "out"))
    with pytest.raises(DecoderMissing, match=r"decoder is nvdec.*no NVIDIA device.*decoder to auto or cpu"):
        run(job)
    assert not (tmp_path / "out").exists()
    with pytest.raises(UserError, match=r"decoder: nvdec cannot run under execution\.confinement: landlock\+seccomp"):
        run(job, **{"execution.confinement": "landlock+seccomp"})


@no_card
def test_without_a_card_nvdec_fails_by_name_and_auto_is_the_cpu(file):
    path, info = file
    found = path.stat()
    media = Media("m", path.name, str(path), f"{found.st_size}-{found.st_mtime_ns}", found.st_size)
    failed = decode_one(media, info, Clip("c", 0, 0, 1), CARD)
    assert isinstance(failed, ClipFailure)
    assert failed.error_class == "decoder_missing"
    auto = DecodeSettings(decoder="auto")
    assert decoder_here(auto).endswith("; video on the CPU (there is no NVIDIA device (/dev/nvidia0))")
    assert nvdec.level_here(auto) == confinement.level()
    assert np.array_equal(decode(file, auto).frames, decode(file, DecodeSettings()).frames)


def test_where_confinement_must_be_whole_auto_is_the_cpu():
    said = nvdec.said(DecodeSettings(decoder="auto", confinement="landlock+seccomp"))
    assert "execution.confinement is landlock+seccomp" in said


@no_card
def test_a_device_without_a_driver_is_found_out_by_the_sample(tmp_path, monkeypatch):
    (tmp_path / "nvidia0").touch()
    monkeypatch.setattr(nvdec, "_DEVICES", str(tmp_path))
    found = nvdec._tried.__wrapped__(nvdec.find_ffmpeg())
    assert found.problem == "the sample of h264 is not decoded on the card: [CUDA] Cannot load libcuda.so.1"
    monkeypatch.setattr(nvdec, "hwaccels", frozenset)
    assert nvdec._tried.__wrapped__("ffmpeg").problem == "ffmpeg was built without cuda"


@no_card
def test_what_a_card_cannot_decode_the_cpu_does(file, monkeypatch):
    monkeypatch.setattr(nvdec, "takes", lambda info, settings: True)
    got, wanted = decode(file, CARD), decode(file, DecodeSettings())
    assert np.array_equal(got.frames, wanted.frames)
    assert np.array_equal(got.audio, wanted.audio)
    assert (got.notes, got.decoded_share) == (wanted.notes, 1)


@pytest.mark.parametrize("codec", nvdec.CODECS)
def test_the_samples_are_20_pictures_that_move(codec):
    shown, problem = nvdec._decoded(nvdec.find_ffmpeg(), codec, is_on_card=False)
    frames = np.frombuffer(shown, np.uint8).reshape(-1, 256 * 144 * 3 // 2)
    assert problem == ""
    assert len(frames) == 20
    assert (frames[1:] != frames[:-1]).any(axis=1).all()


@pytest.mark.skipif(not confinement.level().landlock, reason="the kernel has no Landlock")
def test_a_process_with_devices_reaches_them_and_no_other_file(tmp_path):
    (tmp_path / "secret").write_text("of the user")
    code = (
        "import sys\nfor path, mode in zip(sys.argv[1::2], sys.argv[2::2]):\n"
        " try: open(path, mode).close(); print('opened')\n except OSError as e: print(type(e).__name__)"
    )
    tries = ["/dev/null", "r+b", "/dev/zero", "r+b", tmp_path / "secret", "rb", tmp_path / "new", "wb"]
    program = [sys.executable, "-c", code, *map(str, tries)]
    child = confinement.start(
        program, timeout_s=20, file_bytes=1 << 20, memory_bytes=0, devices=("/dev/null",), stdout=-1
    )
    said, _ = child.communicate(timeout=20)
    confinement.end(child, has_devices=True)
    assert said.split() == [b"opened", *[b"PermissionError"] * 3]
    level = nvdec._level()
    assert str(level) == f"landlock-{level.landlock}+nvdec"
    assert not level.is_full
    assert not confinement.is_full(str(level))


@has_card
@pytest.mark.parametrize("codec", ["libx264", "libx265"])
def test_a_card_shows_the_pictures_of_the_cpu(codec, tmp_path):
    path = tmp_path / "one.mp4"
    make(*picture(3, size="320x240"), *sound(3), "-c:v", codec, "-bf", 3, path)
    with ProbePool(1) as pool:
        ((_, info),) = pool.probe_many([(None, str(path))])
    assert nvdec.takes(info, CARD)
    got, wanted = (decode((path, info), settings) for settings in (CARD, DecodeSettings()))
    assert np.array_equal(got.frames, wanted.frames)
    assert (got.notes, got.noticed) == (wanted.notes, wanted.noticed)
