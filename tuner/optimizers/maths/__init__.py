"""The mathematics behind the rules: pure functions of stacked tensors [T, ...], independent of any rule."""
