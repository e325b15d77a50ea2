"""What the collector looks at after imports."""

from __future__ import annotations

import gc
import importlib

from omnidrop.imports import own_process, uncollected


def test_only_a_process_of_ours_keeps_what_it_had_after_an_import(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
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
