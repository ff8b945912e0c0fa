"""Bundles as a model repository of NVIDIA Triton: what is written, and what runs inside of Triton's Python backend.

Each bundle becomes an ensemble of three models: *tokenizer* (texts → ids, Python backend) → *model* (ids → logits, ONNX
Runtime's backend or the Python backend over our runtime) → *labels* (logits → answers, Python backend).
"""
