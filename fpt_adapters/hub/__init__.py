"""The Hub: downloads that are checked, what a repo holds, its card, code that travels, deltas found."""
