"""`python -m tuner.optimizers` writes catalogue.json."""

from tuner.optimizers.catalogue import write_json

write_json()
