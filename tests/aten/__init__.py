"""PyTorch's operators and networks, pruned at random and compared in torch."""
