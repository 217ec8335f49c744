"""Reading and writing models and training states: the only room that knows file formats."""
