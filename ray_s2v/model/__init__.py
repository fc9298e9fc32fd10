"""The network that learns: the Wan 2.2 S2V transformer, its checkpoint's names, its LoRA, the flow and the conditioning."""
