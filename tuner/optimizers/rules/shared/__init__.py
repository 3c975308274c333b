"""What two or more rules build on: base classes and tables of hyperparameters."""
