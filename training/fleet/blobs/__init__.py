"""Where artifacts' bytes lie: one module per kind of place, all with the same calls.

`tests/conformance/test_blobs.py` is the contract that every one of them passes.
"""
