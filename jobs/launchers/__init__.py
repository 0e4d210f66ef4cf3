"""Where trainings run: as child processes of a trainer, as Jobs of a Kubernetes cluster, or as jobs of Ray."""
