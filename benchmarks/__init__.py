"""What every claim about speed is measured with: each figure is a ratio to a baseline of the same run."""
