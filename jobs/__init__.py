"""Training jobs: the store that gateways and trainers share, the uploaded files, and the trainer.

`python -m jobs` runs a trainer.
"""
