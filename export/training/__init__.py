"""How a model learns: the layers' own gradients, updates on all devices, the order of a run and its folder."""
