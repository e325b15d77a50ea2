"""What the collector looks at after imports."""

from __future__ import annotations

import gc
import importlib
import subprocess
import sys

from omnidrop.imports import own_process, uncollected


def test_only_a_process_of_ours_keeps_what_it_had_after_an_import(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "_duckdb", raising=False)  # of another test
    for name in ("imported_here", "imported_there"):
        (tmp_path / f"{name}.py").write_text("made = [[] for _ in range(100)]")
    gc.collect()
    before = gc.get_freeze_count()
    with uncollected():
        importlib.import_module("imported_here")
        assert not gc.isenabled()
    assert gc.isenabled()
    assert gc.get_freeze_count() == before
    with own_process():
        with uncollected():
            importlib.import_module("imported_here")
        assert gc.get_freeze_count() == before, "nothing new was imported"
        with uncollected():
            importlib.import_module("imported_there")
        assert gc.get_freeze_count() > before + 100


def test_a_process_of_ours_that_imports_duckdb_ends_without_a_word():
    # Of a library made with nanobind, what the collector is kept from is printed as leaked, line by line.
    ours = "from omnidrop.imports import own_process, uncollected\nwith own_process(), uncollected(): import duckdb"
    ended = subprocess.run([sys.executable, "-c", ours], capture_output=True, text=True, check=True)
    assert ended.stderr == ""
