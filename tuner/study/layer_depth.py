"""How deep in a network each parameter lies, by names alone: what a decay of the learning rate per layer goes by.

The rule is in `layer_depths`. Standard library only, and one function without others: code that is handed over prints
it as it stands here.
"""


def layer_depths(names: list[str]) -> dict[str, int]:
    """Return how many layers lie above each parameter's, 0 for the last layer's; `names` in the model's own order.

    A block is all that shares a name up to its first number (`blocks.3.`). Each block is a layer, and so is all that
    comes before the first block, between two, or after the last. Without blocks each top-level module is a layer.
    """
    split = [name.split(".") for name in names]
    while min(map(len, split), default=0) > 2 and len({parts[0] for parts in split}) == 1:
        split = [parts[1:] for parts in split]  # one module wraps all others
    blocks = any(part.isdigit() for parts in split for part in parts)
    layers: list[str] = []
    last = ""
    for place, parts in enumerate(split):
        number = next((i for i, part in enumerate(parts) if part.isdigit()), None)
        if number is not None:
            last = ".".join(parts[: number + 1])
        elif not blocks:
            last = parts[0] if len(parts) > 1 else ""
        elif not last.startswith("between "):
            last = f"between {place}"
        layers.append(last)
    order = list(dict.fromkeys(layers))
    return {name: len(order) - 1 - order.index(layer) for name, layer in zip(names, layers, strict=True)}
