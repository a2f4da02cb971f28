"""How fast the stages train and sample, beside the same networks in PyTorch."""
