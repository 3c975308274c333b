"""The mathematics under the rules: pure functions of stacked tensors [T, ...]. Knows no rule."""
