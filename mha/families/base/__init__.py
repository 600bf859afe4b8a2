"""What a family is, where families occur in a model, and what every family shares."""
