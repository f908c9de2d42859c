"""The Hub: checked downloads, the files of a repo, its card, exported code, and finding deltas."""
