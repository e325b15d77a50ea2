"""Published tables with answers of one's own, where what matters is what is read from them."""

from __future__ import annotations

import io
import json
from dataclasses import asdict

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.records.checksummed_parquet import digest
from pipeline.storage.store import open_store
from pipeline.tables.manifest import MANIFEST, SCHEMAS, FileMark, Published


def publish(uri, clips, media=None, job="test", generation=1, whole=None, copies=None):
    """`clips`: media key -> [(start_s, end_s, {question_id: (type, answer, probability)})]. `media`: key -> columns.
    `whole`: key -> {question_id: (type, answer, probability)}. `copies`: key -> key of the file it is a copy of."""
    rows = {name: [] for name in SCHEMAS}
    for key, spans in clips.items():
        own = {"uri": f"/archive/{key}", "frame_rate": 25.0, "duration_s": 600.0} | (media or {}).get(key, {})
        rows["media"].append({"job": job, "media_id": f"id-{key}", "media_key": key} | own)
        for index, (start_s, end_s, answers) in enumerate(spans):
            shared = {"job": job, "media_id": f"id-{key}", "media_key": key, "model": "made-up",
                      "clip_id": f"{key}-{index}", "start_s": start_s, "end_s": end_s}  # fmt: skip
            if key in (copies or {}):
                shared["copy_of"] = f"{copies[key]}-{index}"
            rows["clips"].append(shared)
            rows["answers"] += [shared | _answer(*one) for one in answers.items()]
        of_video = {"job": job, "media_id": f"id-{key}", "media_key": key, "model": "made-up"}
        rows["whole_answers"] += [of_video | _answer(*one) for one in (whole or {}).get(key, {}).items()]
    store = open_store(str(uri))
    tables, files = {}, {}
    for name, schema in SCHEMAS.items():
        sink = io.BytesIO()
        pq.write_table(pa.Table.from_pylist(rows[name], schema=schema), sink)
        path = f"generation={generation:06d}/{name}/part-00000.parquet"
        store.write(f"tables/{path}", sink.getvalue())
        tables[name] = [path]
        files[path] = FileMark(len(sink.getvalue()), digest(sink.getvalue()), len(rows[name]))
    counted = {name: len(rows[name]) for name in SCHEMAS}
    store.write(MANIFEST, json.dumps(asdict(Published(generation, "", tables, counted, "", files=files))).encode())
    return uri


def _answer(question_id, said):
    kind, answer, probability = said
    return {
        **{"question_id": question_id, "question": f"{question_id}?", "answer_type": kind, "answer": answer},
        "answer_boolean": answer == "yes" if kind == "boolean" else None,
        "answer_number": float(answer) if kind == "number" else None,
        **{"probability": probability, "margin": None if probability is None else 2 * probability - 1},
    }
