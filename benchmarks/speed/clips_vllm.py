"""vLLM asked about whole clips over its standard input, in the plainest way: the decoded clip beside every question.

Promises: the model's own chat template, pictures and sound as one clip, the first question alone so that the others
find its prefix; process CPU seconds of one thread, the processor and both encoders in, nothing known from an earlier
clip. Runs in vLLM's environment, without the project. Knows nothing about decoding files.

    python -m benchmarks.speed.clips_vllm CHECKPOINT MAX_TOKENS DTYPE
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any

from benchmarks.speed.engine_vllm import status_bytes


def same_clock(config: Any) -> Any:
    """The configuration with rotary positions a second where vLLM looks for them: elsewhere it takes 25."""
    thinker = getattr(config, "thinker_config", config)
    if hasattr(thinker, "vision_config"):  # vLLM also tries this with an empty configuration
        thinker.vision_config.tokens_per_second = thinker.position_id_per_seconds
    return config


def main() -> None:
    """Load the checkpoint, say so, and answer until the input ends."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    checkpoint, most, dtype = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    import numpy as np
    from vllm import LLM, SamplingParams, __version__

    engine: Any = LLM(
        checkpoint,
        hf_overrides=same_clock,
        enforce_eager=True,
        dtype=dtype,
        max_model_len=most,
        max_num_batched_tokens=most,
        enable_prefix_caching=True,
        limit_mm_per_prompt={"video": 1, "audio": 1, "image": 0},
        seed=0,
    )
    tokenizer = engine.get_tokenizer()
    print(json.dumps({"version": __version__, "loaded_bytes": status_bytes("VmRSS")}), file=answers)
    for line in sys.stdin:
        asked = json.loads(line)
        clip = np.load(asked["clip"])
        frames, audio = clip["frames"], clip["audio"]
        with open("/proc/self/clear_refs", "w") as refs:
            refs.write("5")  # resets the peak
        engine.reset_prefix_cache()
        engine.reset_mm_cache()
        engine.llm_engine.engine_core.reset_encoder_cache()
        started = time.process_time()
        shown = {
            "fps": asked["fps"],
            "duration": len(frames) / asked["fps"],
            "total_num_frames": len(frames),
            "frames_indices": list(range(len(frames))),
            "do_sample_frames": False,
        }
        prompts, settings = [], []
        for question, options in asked["questions"]:
            content = [{"type": "video"}, {"type": "text", "text": question}]
            turn = [{"role": "user", "content": content}]
            text = tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)
            # The first token of an option, which is what is compared.
            firsts = {tokenizer.encode(option, add_special_tokens=False)[0] for option in options}
            settings.append(SamplingParams(max_tokens=1, temperature=0.0, allowed_token_ids=sorted(firsts)))
            prompts.append(
                {
                    "prompt": text,
                    "multi_modal_data": {"video": (frames, shown), "audio": (audio, 16_000)},
                    "mm_processor_kwargs": {"use_audio_in_video": True, "fps": asked["fps"], "size": asked["size"]},
                }
            )
        # The first alone, so that the others find what it left.
        given = engine.generate(prompts[:1], settings[:1], use_tqdm=False)
        given += engine.generate(prompts[1:], settings[1:], use_tqdm=False) if prompts[1:] else []
        spent = time.process_time() - started
        said = {
            "cpu_s": spent,
            "peak_bytes": status_bytes("VmHWM"),
            "prompt_tokens": [len(one.prompt_token_ids) for one in given],
            "retained_ratio": 1.0,
            "first_tokens": [one.outputs[0].token_ids[0] for one in given],
        }
        print(json.dumps(said), file=answers)


if __name__ == "__main__":
    main()
