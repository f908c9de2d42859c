"""FPTTrainer: its checks and guards, the sources of its batches, its card and uploads, and several processes."""
