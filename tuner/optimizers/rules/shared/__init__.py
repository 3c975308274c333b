"""Base classes and hyperparameter tables shared by several rules."""
