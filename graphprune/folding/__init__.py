"""What the stored numbers prove: which values are constant, which channels are dead, what a removal can fold."""
