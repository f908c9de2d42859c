"""The command line: what `fpt-adapters` and examples/run_fpt.py do."""
