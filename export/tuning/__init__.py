"""Hyperparameter search: trials are runs of the exporter in processes of their own; Optuna stops the worse ones."""
