"""The proof: a pruned model equals its masked original."""
