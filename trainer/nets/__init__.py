"""The nets as the papers' tables; they know nothing of recipes, data or training."""
