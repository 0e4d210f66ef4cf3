"""Training: gradients of recurrent layers, updates on all devices, the training loop and the run directory."""
