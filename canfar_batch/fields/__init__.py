"""From values and templates to the arguments of a command."""
