"""What pruning without training does to the metrics of trained models: tasks, peers, one table."""
