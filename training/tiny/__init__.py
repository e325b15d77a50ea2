"""Training of the embedded checkpoint `tiny`: architecture, tokenizer, perception, binding, fine-tuning, evaluation.

Promises: `python -m training.tiny` trains such a checkpoint from seeds alone, on a CPU or a GPU, and resumes
where it was stopped. Nothing of the product imports it.
"""
