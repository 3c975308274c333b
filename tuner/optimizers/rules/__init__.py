"""The update rules, one file each; `shared` has what two or more of them build on. No rule imports another."""
