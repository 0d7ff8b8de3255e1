"""A search's trials, the rule that chooses one, and its costs on windows not searched on."""
