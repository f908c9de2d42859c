"""What `gpu.py` runs, a kind a module."""
