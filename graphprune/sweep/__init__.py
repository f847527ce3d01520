"""What each group costs in the model's output when it alone is cut: measured, kept on disk, shared out to workers."""
