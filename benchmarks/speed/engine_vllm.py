"""vLLM as a process that is asked over its standard input: one JSON line a question set, one JSON line an answer.

Promises: process CPU seconds of one thread, peak resident memory while answering, and the first token of every answer,
so that two engines can be seen to compute the same. Runs in an environment of its own, with vLLM and without the
project, so it imports nothing of it. Knows nothing about what it is compared with.

    python engine_vllm.py CHECKPOINT MAX_TOKENS
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any

os.environ.update(
    VLLM_ENABLE_V1_MULTIPROCESSING="0",  # one process, whose CPU seconds are all there are
    VLLM_CPU_OMP_THREADS_BIND="nobind",
    VLLM_CPU_KVCACHE_SPACE="2",
    VLLM_LOGGING_LEVEL="ERROR",
    VLLM_NO_USAGE_STATS="1",
    OMP_NUM_THREADS="1",
)


def status_bytes(field: str) -> int:
    """A size from /proc/self/status."""
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith(field + ":"))


def main() -> None:
    """Load the checkpoint, say so, and answer until the input ends."""
    # What libraries print must not be taken for an answer.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    checkpoint, most = sys.argv[1], int(sys.argv[2])
    from vllm import LLM, SamplingParams, __version__

    engine: Any = LLM(
        checkpoint,
        skip_tokenizer_init=True,
        enforce_eager=True,
        dtype="auto",
        max_model_len=most,
        max_num_batched_tokens=most,  # a prompt is never cut in parts, which costs more here
        enable_prefix_caching=True,
        seed=0,
    )
    one_token = SamplingParams(max_tokens=1, temperature=0.0, detokenize=False)
    print(json.dumps({"version": __version__, "loaded_bytes": status_bytes("VmRSS")}), file=answers)
    for line in sys.stdin:
        asked = json.loads(line)
        prompts = [{"prompt_token_ids": asked["prefix"] + one} for one in asked["questions"]]
        with open("/proc/self/clear_refs", "w") as refs:
            refs.write("5")  # resets the peak
        given = []
        engine.reset_prefix_cache()
        started = time.process_time()
        if asked["mode"] == "prefix_caching":
            # The first alone, so that the others find what it left.
            given = engine.generate(prompts[:1], one_token, use_tqdm=False)
            given += engine.generate(prompts[1:], one_token, use_tqdm=False) if prompts[1:] else []
        else:
            for prompt in prompts:
                given += engine.generate([prompt], one_token, use_tqdm=False)
                engine.reset_prefix_cache()
        spent = time.process_time() - started
        said = {
            "cpu_s": spent,
            "peak_bytes": status_bytes("VmHWM"),
            "first_tokens": [one.outputs[0].token_ids[0] for one in given],
            "retained_ratio": 1.0,
        }
        print(json.dumps(said), file=answers)


if __name__ == "__main__":
    main()
