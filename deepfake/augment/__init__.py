"""How training crops are changed: recipes, face parts, self-blended images, the contact sheet."""
