"""Tools that a model may call: the registry, what is built in, and servers of the Model Context Protocol."""
