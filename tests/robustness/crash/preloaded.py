"""What the fork server imports once for all runs. Most of it a run imports late, to answer its first clip: 3 s each.

Nor does a run's collector walk over it (half a second a run)."""

from omnidrop.imports import own_process, uncollected

with own_process(), uncollected():
    import pyarrow.dataset  # noqa: F401
    import safetensors.torch  # noqa: F401
    import torch._dynamo  # noqa: F401
    from transformers.models.qwen2 import tokenization_qwen2  # noqa: F401
    from transformers.models.qwen2_5_omni import modeling_qwen2_5_omni  # noqa: F401

    import jobs.forget
    import jobs.index
    import jobs.rebuild  # noqa: F401
    import pipeline.execution.in_process  # noqa: F401
    from omnidrop.models import qwen2_5_omni  # noqa: F401
