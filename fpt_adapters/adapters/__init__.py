"""peft, both ways: its adapters on frozen layers, and a delta as a peft adapter."""
