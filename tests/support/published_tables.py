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

ASKED = {"run_id": "run-1", "question_set": "made-up", "question_set_version": "1"}
ASKED |= {"model": "made-up", "mode": "dense", "policy": "none"}


def publish(uri, clips, media=None, job="test", generation=1, whole=None, copies=None, failed=(), audits=None):
    """`clips`: media key -> [(start_s, end_s, {question_id: (type, answer, probability)})]. `media`: key -> columns.
    `whole`: key -> {question_id: (type, answer, probability)}. `copies`: key -> key of the file it is a copy of.
    `failed`: keys of media in quarantine. `audits`: columns of each clip's audit; None where none was audited."""
    rows = {name: [] for name in SCHEMAS}
    for key, spans in clips.items():
        own = {"uri": f"/archive/{key}", "frame_rate": 25.0, "duration_s": 600.0} | (media or {}).get(key, {})
        named = {"job": job, "media_id": f"id-{key}", "media_key": key}
        rows["media"].append(named | own)
        for index, (start_s, end_s, answers) in enumerate(spans):
            shared = {**(named | ASKED), "status": "answered", "clip_id": f"{key}-{index}"}
            shared |= {"start_s": start_s, "end_s": end_s}
            if key in (copies or {}):
                shared["copy_of"] = f"{copies[key]}-{index}"
            rows["clips"].append(shared)
            rows["answers"] += [shared | _answer(*one) for one in answers.items()]
            if audits is not None:
                compared = [{"question_id": question, "answer_type": said[0]} for question, said in answers.items()]
                rows["audits"].append(shared | {"dense_shared_model_s": 1.0, "answers": compared} | audits)
        rows["whole_answers"] += [named | ASKED | _answer(*one) for one in (whole or {}).get(key, {}).items()]
    for key in failed:
        rows["media"].append({"job": job, "media_id": f"id-{key}", "media_key": key, "status": "failed"})
        reason = {"stage": "probe", "error_class": "not_media", "message": "not a video"}
        rows["quarantine"].append(rows["media"][-1] | reason | {"quarantine_id": f"quarantine-{key}"})
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
