"""Names and lengths that a stranger chooses: none of them ends a run, holds it, or passes for another."""

from __future__ import annotations

import fnmatch
import os
import re
import string
import subprocess
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.archive.listing import list_media
from pipeline.config.globs import KeyFilter, compile_glob
from pipeline.config.job import ArchiveConfig
from pipeline.config.sections import ClipsConfig
from pipeline.cost.estimate import Price
from pipeline.planning.cutting import TooManyClips, cut_spans
from pipeline.storage.errors import StorageError
from pipeline.storage.local_store import LocalStore
from workers.media.opening import local_path

# Depth


def test_a_chain_of_folders_as_deep_as_paths_go_is_listed(tmp_path):
    """Deeper than Python recurses, and, in the end, than any program can open."""
    (tmp_path / "a.mp4").write_bytes(b"x")
    place = os.open(tmp_path, os.O_RDONLY)
    try:
        for depth in range(2200):
            os.mkdir("d", dir_fd=place)
            inner = os.open("d", os.O_RDONLY, dir_fd=place)
            os.close(place)
            place = inner
            if depth in (1100, 2199):
                os.close(os.open("deep.mp4", os.O_CREAT | os.O_WRONLY, dir_fd=place))
        keys = [media.key for media in list_media(ArchiveConfig(uri=str(tmp_path)))]
        assert keys == ["a.mp4", "d/" * 1101 + "deep.mp4"]
        with pytest.raises(StorageError, match="File name too long"):  # nobody's results look like this
            list(LocalStore(tmp_path / "d").list())
    finally:
        os.close(place)
        subprocess.run(["rm", "-rf", tmp_path / "d"], check=True)  # shutil recurses


# Patterns


@pytest.mark.parametrize("pattern", ["*_*_*_*_*_*_*_*.mp4", "**a**a**a**a**a**b", "{*a,*b}{*a,*b}{*a,*b}{*a,*b}.mp4"])
@pytest.mark.parametrize("name", ["_" * 255, "a" * 255, "_a" * 2000])
def test_no_name_holds_a_pattern(pattern, name):
    started = time.process_time()
    for _ in range(20):
        KeyFilter(["**", pattern], [pattern]).takes(name + "x")
    assert time.process_time() - started < 1


SMALL = st.text(alphabet="ab/._-*", min_size=1, max_size=12)


@given(pattern=st.text(alphabet="ab*?._-[]!", min_size=1, max_size=8), name=st.text(alphabet="ab._-[]!", max_size=8))
def test_a_pattern_without_slashes_is_as_in_the_shell(pattern, name):
    try:
        compiled = compile_glob(pattern)
    except ValueError:
        return
    shell = re.sub(r"\*+", "*", pattern)
    assert (compiled.fullmatch(name) is not None) == fnmatch.fnmatchcase(name, shell) or "[" in pattern


@given(
    inside=st.text(alphabet=string.printable, min_size=1, max_size=6), letter=st.characters(exclude_categories=["Cs"])
)
def test_a_set_never_matches_a_slash_and_never_fails_otherwise(inside, letter):
    try:
        compiled = compile_glob(f"x[{inside}]y")
    except ValueError:
        return
    assert compiled.fullmatch("x/y") is None or "/" in inside
    compiled.fullmatch(f"x{letter}y")


@pytest.mark.parametrize(
    ("pattern", "key", "fits"),
    [
        *[("[+-9].mp4", f"{c}.mp4", c in "+,-.0123456789") for c in "+-.05:"],
        *[("[!a-c].mp4", f"{c}.mp4", c not in "abc") for c in "abcd]"],
        *[("[]x].mp4", f"{c}.mp4", c in "]x") for c in "]xy"],
        ("[é-ü].mp4", "ö.mp4", True),
        ("a**b.mp4", "ax/yb.mp4", True),
        ("**/b.mp4", "b.mp4", True),
        ("a/**/b.mp4", "a/b.mp4", True),
        ("{a/b,c}/*.mp4", "a/b/x.mp4", True),
        ("a*b.mp4", "a/b.mp4", False),
        ("l\nn.mp4", "l\nn.mp4", True),
        ("*.mp4", "l\nn.mp4", True),
    ],
)
def test_what_patterns_mean(pattern, key, fits):
    assert (compile_glob(pattern).fullmatch(key) is not None) == fits


def test_a_set_of_slashes_alone_is_refused():
    with pytest.raises(ValueError, match="a character range cannot contain a slash"):
        compile_glob("a[/]b")


# Two names, one id


def test_names_that_look_alike_are_two_items_and_neither_opens_the_other(tmp_path):
    names = [b"\xff.mp4", rb"\xff.mp4", b"\xff.mp4".replace(b"\xff", rb"\xff") + b"\\", b"plain.mp4"]
    for name in names:
        with open(os.fsencode(tmp_path) + b"/" + name, "wb") as file:
            file.write(name)
    os.mkdir(os.fsencode(tmp_path) + rb"/d\xfe")
    os.mkdir(os.fsencode(tmp_path) + b"/d\xfe")
    for folder in (rb"/d\xfe", b"/d\xfe"):
        with open(os.fsencode(tmp_path) + folder + b"/in.mp4", "wb") as file:
            file.write(folder)
    media = list(list_media(ArchiveConfig(uri=str(tmp_path))))
    assert len({item.key for item in media}) == len({item.media_id for item in media}) == len(media) == 6
    assert [item.key for item in media] == sorted(item.key for item in media)
    found = {}
    for item in media:
        with open(local_path(item.uri), "rb") as file:
            content = file.read()
        found[item.key] = content
    assert sorted(found.values()) == sorted([*names, rb"/d\xfe", b"/d\xfe"])
    # One that is text is called what it is; one that is not is called something else.
    assert all(found[name.decode()] == name for name in names if b"\xff" not in name)
    assert found[rb"d\xfe/in.mp4".decode()] == rb"/d\xfe"


# Lengths


def test_a_length_that_a_file_makes_up_makes_no_clips():
    week = 7 * 24 * 3600.0
    started = time.process_time()
    with pytest.raises(TooManyClips, match=r"clips\.max_per_media is 20000"):
        cut_spans(week, ClipsConfig(length_s=0.5, overlap_s=0.45, min_length_s=0.1))
    assert time.process_time() - started < 0.5
    with pytest.raises(TooManyClips):
        cut_spans(3600, ClipsConfig(max_per_media=10))
    with pytest.raises(TooManyClips, match="scene cuts make"):
        cut_spans(100, ClipsConfig(cut="scene", max_per_media=10), [float(n) for n in range(100)])


@given(st.floats(0.1, 5000), st.floats(0.5, 100), st.floats(0, 0.9), st.integers(1, 100))
def test_just_the_items_with_more_clips_are_refused(duration_s, length_s, overlap, most):
    config = ClipsConfig(length_s=length_s, overlap_s=overlap * length_s, min_length_s=0.1)
    clips = len(cut_spans(duration_s, config.model_copy(update={"max_per_media": 10**9})))
    try:
        assert len(cut_spans(duration_s, config.model_copy(update={"max_per_media": most}))) == clips <= most + 1
    except TooManyClips:
        assert clips >= most


def test_a_plan_names_items_far_above_the_median():
    price = Price()
    assert price.outliers == []
    price.clips_per_media.update([10] * 100 + [11] * 50 + [719])
    price.longest = [(11, "b.mp4", 5), (719, "made-up.ts", 3_000_000)]
    assert price.outliers == [("made-up.ts", 719, 3_000_000)]
    price.clips_per_media.update([700] * 500)
    assert price.outliers == []
