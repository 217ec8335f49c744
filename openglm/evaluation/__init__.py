"""Measures models: tasks as data, one way to ask any model, pure scorers, and reports that say how sure a figure is."""
