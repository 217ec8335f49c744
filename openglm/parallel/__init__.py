"""One run over many processes: the network sharded from outside."""
