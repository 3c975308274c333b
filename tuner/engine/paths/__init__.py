"""How a tick is computed: slot by slot, as one vmapped program, or as compiled programs; and evaluation."""
