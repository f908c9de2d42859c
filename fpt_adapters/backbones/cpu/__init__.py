"""What runs faster on a CPU: attention, dropout and GELU."""
