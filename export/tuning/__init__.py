"""Hyperparameter search: trials are runs of the exporter in separate processes; Optuna stops the worse ones."""
