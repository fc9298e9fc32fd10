"""The blocks and injectors as few plain functions of tensors with their derivatives written out: the fast form of the network."""
