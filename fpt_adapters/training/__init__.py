"""FPTTrainer, its checks and guards, where its batches come from, and several processes."""
