"""What hardware exists, what a model's work costs and which hardware this machine has.

Imports no torch, no transformers and nothing else of this project.

- `profiles.costs`: the one cost formula (FLOPs, bytes, roofline) behind receipts, previews and fits
- `profiles.shape`: the numbers of a model's config.json that those formulae need
- `profiles.catalogue`: the hardware table, `load()` and `find(name)`
- `profiles.machine`: what this machine says about its own processor and GPU
- `profiles.detect`: from there to a profile and the engine's settings, `detect()`
"""
