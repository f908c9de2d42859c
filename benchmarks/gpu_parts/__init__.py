"""The cases that `gpu.py` runs, with one module for each kind."""
