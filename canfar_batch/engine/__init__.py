"""The engine drives a batch. `Engine` is the class that the layers above use; the rest is the folder's own."""
