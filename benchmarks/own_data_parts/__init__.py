"""The parts of `own_data.py`."""
