"""Objects of stores: what an address means, and how an object becomes a file of this disk."""
