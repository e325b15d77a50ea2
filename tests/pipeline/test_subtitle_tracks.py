"""Subtitles inside a file as its transcript: which track is read, its words, and that they are read once."""

from __future__ import annotations

import struct
from dataclasses import replace
from unittest import mock

import pytest

from pipeline.archive.beside import Beside
from pipeline.archive.listing import list_media
from pipeline.asking.inspect import Inspected, about_file
from pipeline.config.sections import ArchiveConfig, ContextConfig, ModelConfig
from pipeline.context.tracks import chosen, words_of
from pipeline.index.savings_index import SavingsIndex
from pipeline.planning.context import ContextReader
from tests.support.captions import captioned_h264, captioned_mpeg2, pop_on, roll_up
from tests.support.media_files import make
from workers.errors import MediaError
from workers.media.probing import ProbePool, subtitles
from workers.records import ClipFailure, MediaInfo, SubtitleTrack

SRT = """1
00:00:00,500 --> 00:00:01,500
<i>Good</i> {{\\an8}}morning,
{0}

2
00:00:04,200 --> 00:00:05,000
<|im_end|> über
"""
SPOKEN = {"eng": "all", "ger": "alle", "fre": "tous"}


@pytest.fixture(scope="module")
def films(videos, tmp_path_factory):
    """One file a container, with what a text subtitle can be in it; `pictures.mkv` has only pictures of words."""
    folder = tmp_path_factory.mktemp("films")
    inputs = ["-i", videos / "long.mkv"]
    for language, word in SPOKEN.items():
        (folder / f"{language}.txt").write_text(SRT.format(word))
        inputs += ["-f", "srt", "-i", folder / f"{language}.txt"]
    marks = [("-map", n, f"-metadata:s:s:{n - 1}", f"language={name}") for n, name in enumerate(SPOKEN, 1)]
    tracks = ["-map", "0", *(word for one in marks for word in one), "-c", "copy"]
    flags = ["-disposition:s:0", "forced", "-disposition:s:1", "0", "-disposition:s:2", "default"]
    kinds = ("-c:s:0", "subrip", "-c:s:1", "ass", "-c:s:2", "webvtt")
    make(*inputs, *tracks, *kinds, *flags, "-output_ts_offset", 5, folder / "three.mkv")
    make(*inputs, *tracks, "-c:s", "mov_text", folder / "three.mp4")
    screen = struct.pack(">HHBHBBBB", 160, 120, 16, 0, 0x80, 0, 0, 0)
    shown = (b"PG" + struct.pack(">IIBH", pts, 0, kind, len(b)) + b for pts, kind, b in _pgs(screen))
    (folder / "words.txt").write_bytes(b"".join(shown))
    pictures = ("-f", "sup", "-i", folder / "words.txt")
    make("-i", videos / "long.mkv", *pictures, "-map", "0", "-map", "1", "-c", "copy", folder / "pictures.mkv")
    for name in (*SPOKEN, "words"):
        (folder / f"{name}.txt").unlink()
    names = ("three.mkv", "three.mp4", "pictures.mkv")
    with ProbePool(1) as pool:
        return folder, dict(pool.probe_many((name, str(folder / name)) for name in names))


def _pgs(screen):
    return [(pts, kind, content) for pts in (90_000, 180_000) for kind, content in ((0x16, screen), (0x80, b""))]


def _reader(folder, index=None, **context):
    given = ArchiveConfig(uri=str(folder)), ContextConfig(**context), ModelConfig(), ("clip.transcript",)
    return ContextReader(*given, index=index)


def _media(folder, name):
    return next(media for media in list_media(ArchiveConfig(uri=str(folder))) if media.key == name)


def _said(item):
    assert not item.failure
    return [item.of_clip(start, start + 3)[0].clip.get("transcript") for start in (0, 3)]


@pytest.mark.parametrize(
    ("name", "context", "word", "track"),
    [
        ("three.mkv", {}, "tous", "three.mkv#s:2"),  # the default one
        ("three.mkv", {"language": "de"}, "alle", "three.mkv#s:1"),
        ("three.mkv", {"subtitle_track": "0"}, "all", "three.mkv#s:0"),
        ("three.mp4", {"language": "ru"}, "all", "three.mp4#s:0"),
    ],
)
def test_the_chosen_track_is_the_transcript_cleaned_and_cut_to_the_clip(films, name, context, word, track):
    folder, infos = films
    info = infos[name]
    assert [one.language for one in info.subtitles] == list(SPOKEN)
    reader = _reader(folder, **context)
    item = reader.read(_media(folder, name), info)
    assert _said(item) == [f"Good morning, {word}", "über"]
    assert [key for key, _ in item.sidecars] == [track]
    assert "1 subtitle tracks read of media without a sidecar transcript" in reader.counts.line


@pytest.mark.parametrize(
    ("name", "context", "why"),
    [
        ("pictures.mkv", {}, "hdmv_pgs_subtitle 1"),
        ("pictures.mkv", {"subtitle_track": "0"}, "hdmv_pgs_subtitle 1"),
        ("three.mkv", {"subtitle_track": "7"}, "no track 7 1"),
        ("three.mkv", {"subtitle_track": "none"}, "context.subtitle_track: none 1"),
    ],
)
def test_a_track_that_is_not_read_is_named(films, name, context, why):
    folder, infos = films
    reader = _reader(folder, **context)
    assert _said(reader.read(_media(folder, name), infos[name])) == [None, None]
    assert f"1 media without a transcript whose own subtitle tracks are not read ({why})" in reader.counts.line


def test_a_track_that_holds_a_part_of_what_is_said_is_none():
    forced = SubtitleTrack(2, 0, "subrip", flags=("forced", "default"))
    told = SubtitleTrack(3, 1, "ass", flags=("comment",))
    info = MediaInfo("matroska", 9.0, subtitles=(forced, told))
    assert chosen(info, ContextConfig()) == (None, "forced or commentary")
    heard = replace(told, flags=("hearing_impaired",))
    assert chosen(replace(info, subtitles=(forced, heard)), ContextConfig()) == (heard, "")


def test_a_subtitle_without_an_end_holds_until_the_next():
    cues = words_of(
        [(6.0, None, "two"), (4.0, None, "one"), (4.0, 4.5, "{\\p1}m 0 0 l 9 9"), (9.0, None, "")], 3.0
    ).cues
    assert [(cue.start_s, cue.end_s, cue.text) for cue in cues] == [(1.0, 3.0, "one"), (3.0, 6.0, "two")]


def test_sidecars_and_tracks_are_read_once_and_again_when_they_change(films, videos, tmp_path):
    archive = tmp_path / "archive"
    archive.mkdir()
    folder, infos = films
    for name in ("three.mkv", "pictures.mkv"):
        (archive / name).write_bytes((folder / name).read_bytes())
    sidecar = archive / "pictures.srt"
    sidecar.write_text(SRT.format("you"))
    index = SavingsIndex(f"sqlite:///{tmp_path}/index.sqlite")
    items = [(_media(archive, name), infos[name]) for name in ("three.mkv", "pictures.mkv")]

    def said(of=items):
        with (
            mock.patch.object(Beside, "read", autospec=True, side_effect=Beside.read) as files,
            mock.patch.object(ProbePool, "subtitles_many", autospec=True, side_effect=ProbePool.subtitles_many) as pool,
        ):
            found = _reader(archive, index).read_all(of)
        return [_said(item)[0] for item in found.values()], files.call_count, pool.call_count

    assert said() == (["Good morning, tous", "Good morning, you"], 1, 1)
    assert said() == (["Good morning, tous", "Good morning, you"], 0, 0)
    sidecar.write_text(SRT.format("all"))
    assert said() == (["Good morning, tous", "Good morning, all"], 1, 0)
    other = [(replace(items[0][0], content_id="another"), items[0][1])]
    assert said(other) == (["Good morning, tous"], 0, 1)
    sidecar.unlink()
    assert said(items[1:]) == ([None], 0, 0)
    assert not index.context_read([items[1][0].media_id])  # nothing is kept of what is gone
    (archive / "three.en.vtt").write_text("WEBVTT\n\n00:00.000 --> 00:01.000\nbeside\n")
    assert said(items[:1]) == (["beside"], 1, 0)  # a sidecar has the first say
    index.close()


def test_closed_captions_inside_the_video_are_the_transcript(tmp_path):
    captioned_mpeg2(tmp_path / "pop.ts", pop_on((45, "HELLO WORLD."), (105, "SECOND LINE"), (150, ""), frames=180))
    captioned_h264(tmp_path / "roll.mp4", roll_up("FIRST LINE", "SECOND ONE", "THIRD ONE", every=40, frames=150))
    with ProbePool(1) as pool:
        infos = dict(pool.probe_many((name, str(tmp_path / name)) for name in ("pop.ts", "roll.mp4")))
    assert [track.codec for info in infos.values() for track in info.subtitles] == ["eia_608", "eia_608"]
    reader = _reader(tmp_path)
    said = {name: reader.read(_media(tmp_path, name), info).context.cues for name, info in infos.items()}
    # Shown from frames 45 to 105 to 150, 30 a second; control codes are sent twice.
    assert [(c.text, pytest.approx(c.start_s, abs=0.07), pytest.approx(c.end_s, abs=0.07)) for c in said["pop.ts"]] == [
        ("HELLO WORLD.", 1.5, 3.5),
        ("SECOND LINE", 3.5, 5.0),
    ]
    assert [cue.text for cue in said["roll.mp4"]] == ["FIRST LINE", "SECOND ONE", "THIRD ONE"]
    assert "(eia_608 2)" in reader.counts.line


class Elsewhere:
    """Another machine that keeps the objects of a bucket: here they are files of a folder."""

    def __init__(self, folder):
        self.folder, self.asked = folder, []

    def subtitles(self, media, index):
        self.asked.append(media.key)
        try:
            return None if media.key == "three.mp4" else subtitles(str(self.folder / media.key), index)
        except MediaError as error:
            return ClipFailure(None, "probe", error.error_class, str(error))


def test_a_track_of_a_buckets_file_is_read_where_the_file_is_kept(films):
    folder, infos = films
    given = ArchiveConfig(uri="s3://media"), ContextConfig(), ModelConfig(), ("clip.transcript",)
    reader = ContextReader(*given, elsewhere=(there := Elsewhere(folder)))
    items = [
        (replace(_media(folder, name), key=key, media_id=key, uri=f"s3://media/{key}"), infos[name])
        for name, key in (("three.mkv", "three.mkv"), ("three.mkv", "gone.mkv"), ("three.mp4", "three.mp4"))
    ]
    here = []

    def read_here(pool, files):
        here.extend(opening.args[0].key for _, opening, _ in files)
        return iter([(0, ((1.0, 2.0, "here"),))])

    nothing = mock.patch.object(Beside, "near", return_value={})
    with nothing, mock.patch.object(ProbePool, "subtitles_many", read_here):
        whole, gone, asked_here = reader.read_all(items).values()
    assert sorted(there.asked) == ["gone.mkv", "three.mkv", "three.mp4"]
    assert _said(whole)[0] == "Good morning, tous"
    assert (gone.error_class, "gone.mkv#s:2" in gone.failure) == ("media_missing", True)
    assert (here, _said(asked_here)[0]) == (["three.mp4"], "here")


def test_a_damaged_track_is_its_videos_failure(films, tmp_path):
    folder, infos = films
    content = (folder / "three.mkv").read_bytes()
    (tmp_path / "bad.mkv").write_bytes(content.replace("über".encode(), b"\xff\xfeber"))
    item = _reader(tmp_path).read(_media(tmp_path, "bad.mkv"), infos["three.mkv"])
    assert item.failure.startswith("bad.mkv#s:2: the subtitle track cannot be read: the subtitle at 9.2 s")
    assert "context.subtitle_track: none" in item.failure
    assert item.error_class == "context"
    media = _media(tmp_path, "bad.mkv")
    (tmp_path / "bad.mkv").unlink()
    assert _reader(tmp_path).read(media, infos["three.mkv"]).error_class == "media_missing"  # the next run tries again


def test_inspect_says_which_track_would_be_the_transcript(films):
    folder, infos = films
    about = about_file(Inspected(_media(folder, "three.mkv"), infos["three.mkv"], ()))
    shown = [(one["chosen"], one["why"]) for one in about["tracks"] if one["kind"] == "subtitle"]
    assert shown == [
        (False, "s:0, eng, forced: another track was chosen"),
        (False, "s:1, ger: another track was chosen"),
        (True, "s:2, fre, default: the transcript, unless a sidecar has one"),
    ]
