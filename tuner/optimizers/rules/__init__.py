"""The update rules, one file each; `shared` holds what several of them build on. No rule imports another."""
