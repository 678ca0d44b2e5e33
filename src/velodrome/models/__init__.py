"""Model artifacts: a folder of weights with a manifest, and the model that is read from one.

Owns the manifest, the formats (ONNX and safetensors for networks, skops for scikit-learn's estimators), and `Model`, which predicts.
Promises: reading an artifact executes no code from it and opens no file but its own; every file's bytes are verified; what
could not be read back is refused when it is saved. Predicting with a network needs no torch.
May import: core, store, evaluation, data, features; torch only in `torch.py`.
"""
