"""How a command travels to the container, and how the container reports back."""
