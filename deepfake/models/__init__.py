"""What ships with the package beside its code: weights, with their licences. Data only."""
